//! The store beside its limits, by criterion: `cargo bench -p dynomite-benches --bench store`.
//! `-- --quick` is criterion's own short way.

use criterion::{BenchmarkId, Criterion, Throughput};
use dynomite_benches::{Folder, Runner, WORKLOADS};
use std::time::Duration;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for workload in WORKLOADS {
        let mut group = criterion.benchmark_group(workload.name);
        group.throughput(Throughput::Bytes(workload.bytes));
        let mut made = None;
        let mut run = |who: &str, choose: fn(&mut dynomite_benches::Pair) -> &mut Runner| {
            let id = BenchmarkId::new(who, workload.limit_name);
            group.bench_function(id, |bencher| {
                // Made when it is first needed: a filter may pass the workload over.
                let (pair, _) = made.get_or_insert_with(|| {
                    let folder = Folder::new();
                    let pair = (workload.make)(&folder);
                    (pair, folder)
                });
                bencher.iter_custom(|count| choose(pair)(count));
            });
        };
        run("limit", |pair| &mut pair.limit);
        run("store", |pair| &mut pair.store);
        group.finish();
    }
    criterion.final_summary();
}
