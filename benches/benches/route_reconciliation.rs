//! `cargo bench route_reconciliation`: existing × changed, without privileges. The README of this
//! package says what each figure means.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flannel_benches::{Running, desired, lease};
use flannel_core::diff;

/// Peers that are there.
const EXISTING: [u32; 3] = [100, 1_000, 10_000];

/// Peers that change at once: one, a hundred, all.
fn changed(existing: u32) -> impl Iterator<Item = u32> {
    let mut changed = vec![1, 100, existing];
    changed.dedup();
    changed.into_iter()
}

fn route_reconciliation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_reconciliation");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for existing in EXISTING {
        let have = desired((0..existing).map(|number| lease(number, false)));
        for changed in changed(existing) {
            let want = desired((0..existing).map(|number| lease(number, number < changed)));
            group.throughput(Throughput::Elements(u64::from(changed)));
            group.bench_function(
                BenchmarkId::new("diff", format!("{existing}x{changed}")),
                |bencher| {
                    bencher.iter(|| diff(&have, &want));
                },
            );
        }
        let running = match Running::with_peers(existing) {
            Ok(running) => running,
            Err(error) => panic!("no runtime: {error}"),
        };
        let mut moved = false;
        for changed in changed(existing) {
            group.throughput(Throughput::Elements(u64::from(changed)));
            group.bench_function(
                BenchmarkId::new("engine", format!("{existing}x{changed}")),
                |bencher| {
                    bencher.iter(|| {
                        moved = !moved;
                        running.change(changed, moved);
                    });
                },
            );
            // The next row begins with every peer at its first address.
            if moved {
                moved = false;
                running.change(changed, moved);
            }
        }
    }
    group.finish();
}

criterion_group!(benches, route_reconciliation);
criterion_main!(benches);
