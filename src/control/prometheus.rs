//! A mount's counts in Prometheus' text format. Totals only: files come and go, and each would be a series of its own.
//! Never here: serving them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::process::ProcessSnapshot;
use super::timed::{self, Timed};
use super::{Mount, Served};
use crate::cache::Cache;
use crate::drive::Drive;
use crate::metrics::Metrics;
use crate::origin::Health;
use crate::timing::Histogram;
use crate::volume::Volume;

/// As the format's version is told.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All counts, now.
pub(super) fn text(mount: &Mount) -> String {
    let Mount { mountpoint, served, since } = mount;
    let mut page = Page(String::with_capacity(8 << 10));
    let labels = format!(
        "{{version=\"{}\",source=\"{}\",mountpoint=\"{}\"}}",
        env!("CARGO_PKG_VERSION"),
        escaped(served.source()),
        escaped(&mountpoint.display().to_string()),
    );
    page.head("reelfs_info", "gauge", "What is mounted where.");
    page.line(&format!("reelfs_info{labels}"), 1);
    page.gauge("reelfs_uptime_seconds", "Since the mount began.", since.elapsed().as_secs_f64());
    match served {
        Served::Drive { drive, cache, metrics } => page.drive(drive, cache, metrics),
        Served::Volume { volume, .. } => page.volume(volume),
    }
    for Timed { name, help, timing } in timed::all(served) {
        page.histogram(&format!("reelfs_{name}_seconds"), help, &timing.histogram());
    }
    page.process(&ProcessSnapshot::now());
    page.0
}

struct Page(String);

impl Page {
    fn volume(&mut self, volume: &Volume) {
        let page = self;
        // A library that can't be asked now is asked again with the next page.
        let Ok(status) = volume.status(0).inspect_err(|error| log::warn!("{error}")) else { return };
        page.gauge("reelfs_files_open", "Files that are open now.", status.files_open);
        page.gauge("reelfs_library_read_only", "1 where nothing may be changed.", u8::from(status.is_read_only));
        page.gauge("reelfs_library_files", "Files in the library.", status.files);
        page.gauge("reelfs_library_content_bytes", "Their sizes together.", status.content_bytes);
        let written = status.written_bytes;
        page.counter("reelfs_library_written_bytes_total", "What programs wrote.", written);
        let uncommitted = status.uncommitted_bytes;
        page.gauge("reelfs_library_uncommitted_bytes", "Written, and not committed yet.", uncommitted);
        page.gauge("reelfs_library_queued_chunks", "Written chunks to be hashed.", status.queued_chunks);
        page.gauge("reelfs_library_wal_bytes", "The catalog's write-ahead log.", status.wal_bytes);
        page.gauge("reelfs_library_replans", "Kept statements planned anew: about 0.", status.replans);
        page.gauge("reelfs_library_pinned_blobs", "Blobs held on to by files on their way in.", status.pinned_blobs);
        page.counter("reelfs_library_gc_blobs_total", "Blobs removed, as no file needed them.", status.gc_blobs);
        page.counter("reelfs_library_gc_bytes_total", "Bytes of the blobs that were removed.", status.gc_bytes);
        page.gauge("reelfs_library_disk_free_bytes", "Still to be written to its disk.", status.disk_free_bytes);
    }

    fn drive(&mut self, drive: &Arc<Drive>, cache: &Cache, metrics: &Metrics) {
        let page = self;
        page.gauge("reelfs_files_open", "Files that are open now.", drive.files_open(0).1);
        page.counter("reelfs_reads_total", "Reads answered.", metrics.reads.get());
        page.counter("reelfs_reads_waited_total", "Reads that waited for the origin.", metrics.reads_waited.get());
        page.counter("reelfs_read_errors_total", "Reads that ended in an error.", metrics.read_errors.get());
        page.counter(
            "reelfs_read_cached_bytes_total",
            "Bytes that readers had at once.",
            metrics.read_cached_bytes.get(),
        );
        page.counter(
            "reelfs_read_waited_bytes_total",
            "Bytes that readers waited for.",
            metrics.read_waited_bytes.get(),
        );
        page.counter(
            "reelfs_read_wait_seconds_total",
            "How long readers waited for bytes, together.",
            seconds(metrics.read_wait_micros.get()),
        );
        page.counter("reelfs_stalls_total", "Times a player was kept waiting while it played.", metrics.stalls.get());
        page.counter(
            "reelfs_stalled_seconds_total",
            "How long players were kept waiting while they played.",
            seconds(metrics.stalled_micros.get()),
        );
        page.counter("reelfs_origin_bytes_total", "Bytes that came from the origin.", metrics.origin_bytes.get());
        page.counter("reelfs_origin_requests_total", "Range requests to the origin.", metrics.origin_requests.get());
        page.counter(
            "reelfs_origin_errors_total",
            "Answers of the origin that were errors.",
            metrics.origin_errors.get(),
        );
        page.counter("reelfs_origin_retries_total", "Requests made again.", metrics.retries.get());
        page.counter("reelfs_origin_hedges_total", "Second requests, as the first was late.", metrics.hedges.get());
        page.counter(
            "reelfs_origin_hedge_wins_total",
            "Second requests that were answered first.",
            metrics.hedge_wins.get(),
        );
        let cancelled = metrics.flights_cancelled.get();
        page.counter("reelfs_flights_cancelled_total", "Fetches that nobody wanted any longer.", cancelled);
        page.counter(
            "reelfs_origin_outages_total",
            "Times the origin was found to be away.",
            metrics.origin_outages.get(),
        );
        page.gauge(
            "reelfs_origin_away",
            "1 while the origin is not asked, as it does not answer.",
            u8::from(drive.health() != Health::Closed),
        );
        page.head(
            "reelfs_origin_answer_seconds",
            "summary",
            "Until an answer of the origin began, of the last few hundred.",
        );
        for percent in [50, 90, 99] {
            if let Some(time) = metrics.origin_answer_times.percentile(percent) {
                page.line(&format!("reelfs_origin_answer_seconds{{quantile=\"0.{percent}\"}}"), time.as_secs_f64());
            }
        }
        page.gauge("reelfs_cache_used_bytes", "What the cache takes of its disk now.", cache.used_bytes());
        page.gauge(
            "reelfs_cache_budget_bytes",
            "The cache never takes more of its disk than this.",
            cache.budget_bytes(),
        );
        page.counter("reelfs_cache_written_bytes_total", "Written to the cache.", metrics.cache_written_bytes.get());
        page.counter(
            "reelfs_cache_evicted_bytes_total",
            "Evicted to keep the budget.",
            metrics.cache_evicted_bytes.get(),
        );
        page.counter(
            "reelfs_cache_skipped_bytes_total",
            "Bytes that were served, and not kept in the cache.",
            metrics.cache_skipped_bytes.get(),
        );
        page.counter(
            "reelfs_cache_corrupt_chunks_total",
            "Chunks that failed their hash.",
            metrics.cache_corrupt_chunks.get(),
        );
        let inner = cache.inner();
        page.gauge("reelfs_cache_queued_jobs", "Jobs that wait for the cache's writer.", inner.queued_jobs);
        page.counter("reelfs_index_lookups_total", "Questions to the index for reads.", metrics.index_lookups.get());
        page.gauge("reelfs_index_replans", "Kept statements planned anew: about 0.", inner.index_replans);
        page.gauge("reelfs_index_wal_bytes", "The index's write-ahead log.", inner.index_wal_bytes);
        page.counter(
            "reelfs_wasted_bytes_total",
            "Bytes that were fetched, and never read.",
            metrics.wasted_bytes.get(),
        );
        page.gauge("reelfs_problems", "What is wrong now: 0 while all is well.", metrics.problems.now().len());
    }

    /// By the names that Prometheus' own clients use.
    fn process(&mut self, process: &ProcessSnapshot) {
        self.gauge("process_resident_memory_bytes", "Memory of the process.", process.resident_bytes);
        self.gauge("process_threads", "Threads of the process.", process.threads);
        self.gauge("process_open_fds", "Files and sockets that the process has open.", process.open_files);
        self.gauge("reelfs_connections", "Connections to other machines and programs.", process.connections);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        for (bound_nanos, count) in &histogram.up_to {
            let bound = Duration::from_nanos(*bound_nanos).as_secs_f64();
            self.line(&format!("{name}_bucket{{le=\"{bound}\"}}"), count);
        }
        self.line(&format!("{name}_bucket{{le=\"+Inf\"}}"), histogram.count);
        self.line(&format!("{name}_sum"), histogram.sum.as_secs_f64());
        self.line(&format!("{name}_count"), histogram.count);
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "counter", help);
        self.line(name, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.line(name, value);
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// As a label's value is written.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_break_no_line() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
