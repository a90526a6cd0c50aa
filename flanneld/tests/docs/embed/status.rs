use flannel_core::{Engine, StoreError};
use futures_util::StreamExt;
use tokio::sync::oneshot;

/// Looks at an engine while it runs, and ends it.
pub async fn look_and_stop(engine: Engine) -> Result<Vec<String>, StoreError> {
    let handle = engine.handle();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(engine.run(async {
        let _ = stopped.await;
    }));

    let mut told = Vec::new();
    // As it changes; a slow reader gets the latest.
    let mut statuses = std::pin::pin!(handle.statuses());
    while let Some(status) = statuses.next().await {
        if let Some(lease) = status.lease
            && status.peers.installed == 1
        {
            told.push(format!("{}: {}", status.readiness().name(), lease.subnet));
            break;
        }
        for reason in &status.reasons {
            println!("not yet: {reason}");
        }
    }
    // Peer by peer, for who asks.
    for peer in handle.peers(100).await.unwrap_or_default().rows {
        told.push(format!("{} {}", peer.subnet, peer.state));
    }

    // Ends within milliseconds; the routes stay, so that pods keep talking.
    drop(stop);
    if let Ok(ended) = running.await {
        ended?;
    }
    Ok(told)
}
