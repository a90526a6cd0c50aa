//! Looks at the packet filter again and again, for the moment in which pods would not be masqueraded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use crate::setting::sh;

/// Looks that [`Sampler::more`] waits for.
const MORE: u32 = 3;
const DEADLINE: Duration = Duration::from_secs(20);

/// A thread in the network namespace of the one that started it.
pub(crate) struct Sampler {
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    samples: AtomicU32,
    without: AtomicU32,
    stop: AtomicBool,
}

impl Sampler {
    pub(crate) fn start() -> Self {
        let counts = Arc::new(Counts::default());
        let counting = Arc::clone(&counts);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                while !counting.stop.load(Ordering::SeqCst) {
                    if !is_masqueraded().await {
                        counting.without.fetch_add(1, Ordering::SeqCst);
                    }
                    counting.samples.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        Self { counts, thread }
    }

    /// Waits for a few more looks.
    pub(crate) async fn more(&self) {
        let wanted = self.counts.samples.load(Ordering::SeqCst) + MORE;
        let started = Instant::now();
        while self.counts.samples.load(Ordering::SeqCst) < wanted {
            assert!(started.elapsed() < DEADLINE, "the sampler does not sample");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends it; there has to have been a rule at every look.
    pub(crate) fn stop(self) {
        self.counts.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        let (samples, without) = (&self.counts.samples, &self.counts.without);
        assert!(samples.load(Ordering::SeqCst) >= MORE);
        assert_eq!(without.load(Ordering::SeqCst), 0, "of {samples:?} samples");
    }
}

/// Rules that move are in one of three places in every moment, but a look at all takes longer than that:
/// whoever looks at each in turn, and at the first two again, finds them.
async fn is_masqueraded() -> bool {
    let places = [
        "nft list table ip flannel-ipv4",
        "iptables-nft-save -t nat",
        "iptables-legacy-save -t nat",
    ];
    let looks = format!(
        "({0}; {1}; {2}; {0}; {1}) 2>&1; true",
        places[0], places[1], places[2]
    );
    let all = sh(&looks).await;
    let rules = all.lines().filter(|line| line.contains("10.244.0.0/16"));
    rules
        .map(str::to_lowercase)
        .any(|line| line.contains("masquerade"))
}
