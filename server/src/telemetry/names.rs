//! Every metric's name, kind, buckets and meaning, once.

pub(super) const HTTP_REQUESTS: &str = "postsort_http_requests_total";
pub(super) const HTTP_DURATION: &str = "postsort_http_request_duration_seconds";
pub(super) const HTTP_IN_FLIGHT: &str = "postsort_http_requests_in_flight";
pub(super) const HTTP_REQUEST_BYTES: &str = "postsort_http_request_bytes_total";
pub(super) const HTTP_RESPONSE_BYTES: &str = "postsort_http_response_bytes_total";
pub(super) const INFERENCE_REQUESTS: &str = "postsort_inference_requests_total";
pub(super) const INFERENCE_MAILS: &str = "postsort_inference_mails_total";
pub(super) const INFERENCE_DURATION: &str = "postsort_inference_duration_seconds";
pub(super) const BATCH_TOKENS: &str = "postsort_batch_tokens";
pub(super) const BATCH_JOBS: &str = "postsort_batch_jobs";
pub(super) const QUEUE_TOKENS: &str = "postsort_queue_tokens";
pub(super) const QUEUE_JOBS: &str = "postsort_queue_jobs";
pub(super) const QUEUE_JOBS_MAX: &str = "postsort_queue_jobs_max";
pub(super) const BACKLOG: &str = "postsort_backlog_seconds";
pub(super) const DROPPED: &str = "postsort_dropped_mails_total";
pub(super) const REJECTED: &str = "postsort_rejected_total";
pub(super) const CACHE_HITS: &str = "postsort_result_cache_hits_total";
pub(super) const CACHE_MISSES: &str = "postsort_result_cache_misses_total";
pub(super) const STATE_HITS: &str = "postsort_state_cache_hits_total";
pub(super) const STATE_MISSES: &str = "postsort_state_cache_misses_total";
pub(super) const CACHE_BYTES: &str = "postsort_result_cache_bytes";
pub(super) const CACHE_BYTES_MAX: &str = "postsort_result_cache_bytes_max";
pub(super) const CACHE_ENTRIES: &str = "postsort_result_cache_entries";
pub(super) const CACHE_EVICTIONS: &str = "postsort_result_cache_evictions_total";
pub(super) const RESIDENT_BYTES: &str = "postsort_model_resident_bytes";
pub(super) const MEMORY_USED_BYTES: &str = "postsort_memory_used_bytes";
pub(super) const BUDGET_BYTES: &str = "postsort_memory_budget_bytes";
pub(super) const DEVICE_BYTES: &str = "postsort_device_memory_bytes";
pub(super) const DEVICE_FREE_BYTES: &str = "postsort_device_memory_free_bytes";
pub(super) const OUT_OF_MEMORY: &str = "postsort_device_out_of_memory_total";
pub(super) const MODEL_STATE: &str = "postsort_model_state";
pub(super) const MODEL_PINNED: &str = "postsort_model_pinned";
pub(super) const MODEL_LEASES: &str = "postsort_model_leases";
pub(super) const LOAD_DURATION: &str = "postsort_model_load_duration_seconds";
pub(super) const LOAD_FAILURES: &str = "postsort_model_load_failures_total";
pub(super) const EVICTIONS: &str = "postsort_evictions_total";
pub(super) const MODEL_SWITCHES: &str = "postsort_model_switches_total";
pub(super) const SHADOW_MAILS: &str = "postsort_shadow_mails_total";
pub(super) const FEEDBACK: &str = "postsort_feedback_total";
pub(super) const CASCADE_MAILS: &str = "postsort_cascade_mails_total";
pub(super) const SKIMMED_MAILS: &str = "postsort_skimmed_mails_total";
pub(super) const ANSWER_MAILS: &str = "postsort_answer_mails";
pub(super) const ANSWER_LABEL: &str = "postsort_answer_label_share";
pub(super) const ANSWER_CONFIDENCE: &str = "postsort_answer_confidence_mean";
pub(super) const ANSWER_UNKNOWN: &str = "postsort_answer_unknown_token_share";
pub(super) const ANSWER_TOKENS: &str = "postsort_answer_tokens_mean";
pub(super) const DRIFT: &str = "postsort_drift";
pub(super) const READY: &str = "postsort_ready";
pub(super) const SLO_MET: &str = "postsort_slo_met";
pub(super) const PROCESS_CPU: &str = "postsort_process_cpu_seconds_total";
pub(super) const PROCESS_BYTES: &str = "postsort_process_resident_bytes";
pub(super) const PROCESS_VIRTUAL_BYTES: &str = "postsort_process_virtual_bytes";
pub(super) const PROCESS_THREADS: &str = "postsort_process_threads";
pub(super) const PROCESS_FILES: &str = "postsort_process_open_files";
pub(super) const PROCESS_FILES_MAX: &str = "postsort_process_open_files_max";
pub(super) const PROCESS_START: &str = "postsort_process_start_time_seconds";
pub(super) const MACHINE_CPUS: &str = "postsort_machine_cpus";
pub(super) const MACHINE_LOAD: &str = "postsort_machine_load1";
pub(super) const MACHINE_BYTES: &str = "postsort_machine_memory_bytes";
pub(super) const MACHINE_USED_BYTES: &str = "postsort_machine_memory_used_bytes";
pub(super) const GROUP_BYTES: &str = "postsort_cgroup_memory_used_bytes";
pub(super) const GROUP_BYTES_MAX: &str = "postsort_cgroup_memory_max_bytes";
pub(super) const GROUP_THROTTLED: &str = "postsort_cgroup_cpu_throttled_seconds_total";
pub(super) const DISK_BYTES: &str = "postsort_disk_bytes";
pub(super) const DISK_FREE_BYTES: &str = "postsort_disk_free_bytes";
pub(super) const RUNTIME_WORKERS: &str = "postsort_runtime_workers";
pub(super) const RUNTIME_TASKS: &str = "postsort_runtime_tasks";
pub(super) const RUNTIME_QUEUE: &str = "postsort_runtime_queue_tasks";
pub(super) const RUNTIME_BUSY: &str = "postsort_runtime_busy_seconds_total";
pub(super) const COMPUTE_THREADS: &str = "postsort_compute_threads";
pub(super) const TRACES_EXPORTED: &str = "postsort_traces_exported_total";
pub(super) const TRACES_DROPPED: &str = "postsort_traces_dropped_total";
pub(super) const STORE_UP: &str = "postsort_store_up";
pub(super) const STORE_QUERY: &str = "postsort_store_query_duration_seconds";
pub(super) const STORE_QUERY_FAILURES: &str = "postsort_store_query_failures_total";
pub(super) const STORE_WRITTEN_ROWS: &str = "postsort_store_written_rows_total";
pub(super) const STORE_LOST_ROWS: &str = "postsort_store_lost_rows_total";
pub(super) const STORE_QUEUED_ROWS: &str = "postsort_store_queued_rows";
pub(super) const STORE_CONNECTIONS: &str = "postsort_store_connections";
pub(super) const STORE_ROWS: &str = "postsort_store_rows";
pub(super) const STORE_BYTES: &str = "postsort_store_bytes";
pub(super) const STORE_JOB: &str = "postsort_store_job_duration_seconds";
pub(super) const STORE_DROPPED_ROWS: &str = "postsort_store_dropped_rows_total";
pub(super) const SHARED_UP: &str = "postsort_shared_cache_up";
pub(super) const SHARED_EXCHANGE: &str = "postsort_shared_cache_exchange_duration_seconds";
pub(super) const SHARED_FAILURES: &str = "postsort_shared_cache_failures_total";
pub(super) const SHARED_TRIPS: &str = "postsort_shared_cache_trips_total";
pub(super) const SHARED_SKIPPED: &str = "postsort_shared_cache_skipped_total";
pub(super) const SHARED_WRITTEN: &str = "postsort_shared_cache_written_total";
pub(super) const SHARED_LOST: &str = "postsort_shared_cache_lost_total";
pub(super) const BUILD_INFO: &str = "postsort_build_info";

/// 50 µs to 5 s in steps of about 1.6: a p99 read from these is within a step of the truth.
const DURATION_BUCKETS_SECONDS: [f64; 26] = [
    50e-6, 80e-6, 125e-6, 200e-6, 320e-6, 500e-6, 800e-6, 1.25e-3, 2e-3, 3.2e-3, 5e-3, 8e-3,
    12.5e-3, 20e-3, 32e-3, 50e-3, 80e-3, 125e-3, 200e-3, 320e-3, 500e-3, 800e-3, 1.25, 2.0, 3.2,
    5.0,
];
/// Loading reads files: from a small model in the page cache to a large one from a slow disk.
const LOAD_BUCKETS_SECONDS: [f64; 12] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];
const TOKEN_BUCKETS: [f64; 10] =
    [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];
const JOB_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Upper bounds of a histogram's buckets.
pub(super) fn buckets(name: &str) -> &'static [f64] {
    match name {
        BATCH_TOKENS => &TOKEN_BUCKETS,
        BATCH_JOBS => &JOB_BUCKETS,
        LOAD_DURATION | STORE_JOB => &LOAD_BUCKETS_SECONDS,
        _ => &DURATION_BUCKETS_SECONDS,
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// All metrics. The documentation is tested against this table.
pub(super) const ALL: &[(&str, Kind, &str)] = {
    use Kind::{Counter, Gauge, Histogram};
    &[
        (HTTP_REQUESTS, Counter, "HTTP requests by endpoint and status; 499: the client went away"),
        (HTTP_DURATION, Histogram, "From the request's head to the response's head"),
        (HTTP_IN_FLIGHT, Gauge, "HTTP requests being answered"),
        (HTTP_REQUEST_BYTES, Counter, "Bytes of request bodies"),
        (HTTP_RESPONSE_BYTES, Counter, "Bytes of response bodies"),
        (INFERENCE_REQUESTS, Counter, "Requests to a model by outcome"),
        (INFERENCE_MAILS, Counter, "Mails answered"),
        (INFERENCE_DURATION, Histogram, "A request's time by stage"),
        (BATCH_TOKENS, Histogram, "Tokens in a forward pass"),
        (BATCH_JOBS, Histogram, "Mails in a forward pass"),
        (QUEUE_TOKENS, Gauge, "Tokens that wait for the engine"),
        (QUEUE_JOBS, Gauge, "Mails that wait or run"),
        (QUEUE_JOBS_MAX, Gauge, "Mails that may wait or run"),
        (BACKLOG, Gauge, "Engine time that all that waits and runs will take"),
        (DROPPED, Counter, "Mails let in and not computed, by reason"),
        (REJECTED, Counter, "Requests refused for want of room or time"),
        (CACHE_HITS, Counter, "Mails answered without computing, by where the answer was"),
        (CACHE_MISSES, Counter, "Mails that had to be computed"),
        (STATE_HITS, Counter, "Mails whose forward pass another model's request had done"),
        (STATE_MISSES, Counter, "Mails encoded for models that share an encoder"),
        (CACHE_BYTES, Gauge, "Memory of memoized results"),
        (CACHE_BYTES_MAX, Gauge, "Memory that memoized results may take"),
        (CACHE_ENTRIES, Gauge, "Memoized results"),
        (CACHE_EVICTIONS, Counter, "Memoized results dropped for want of room"),
        (RESIDENT_BYTES, Gauge, "Memory of a loaded model, by device"),
        (MEMORY_USED_BYTES, Gauge, "Memory of all models, those being loaded included"),
        (BUDGET_BYTES, Gauge, "Memory that models may take"),
        (DEVICE_BYTES, Gauge, "Memory of a device; of the CPU what the process may use"),
        (DEVICE_FREE_BYTES, Gauge, "Memory of a device that nobody uses"),
        (
            OUT_OF_MEMORY,
            Counter,
            "Times a device had no memory for a load or a batch, by what was done about it",
        ),
        (MODEL_STATE, Gauge, "1 for the state that the model is in"),
        (MODEL_PINNED, Gauge, "1 if the model is never evicted"),
        (MODEL_LEASES, Gauge, "Requests that use the model now"),
        (LOAD_DURATION, Histogram, "From file to ready"),
        (LOAD_FAILURES, Counter, "Loads that failed"),
        (EVICTIONS, Counter, "Models dropped from memory"),
        (MODEL_SWITCHES, Counter, "Times another revision took over"),
        (SHADOW_MAILS, Counter, "Mails read by a revision on trial, by whether it agreed"),
        (FEEDBACK, Counter, "People's words on a verdict, by whether they agreed"),
        (CASCADE_MAILS, Counter, "Mails of a cascade, by whether the model itself had to answer"),
        (
            SKIMMED_MAILS,
            Counter,
            "Long texts that were skimmed, by whether all of it had to be read",
        ),
        (ANSWER_MAILS, Gauge, "Mails of the last hour that the following are of"),
        (ANSWER_LABEL, Gauge, "Share of a label among first labels"),
        (ANSWER_CONFIDENCE, Gauge, "Mean score of the first label"),
        (ANSWER_UNKNOWN, Gauge, "Share of tokens that the tokenizer does not know"),
        (ANSWER_TOKENS, Gauge, "Mean tokens of a mail"),
        (DRIFT, Gauge, "Distance of these from the model's reference"),
        (READY, Gauge, "1 if the server can serve"),
        (SLO_MET, Gauge, "1 if the objective is met over its window"),
        (PROCESS_CPU, Counter, "CPU time of the process"),
        (PROCESS_BYTES, Gauge, "Resident set of the process"),
        (PROCESS_VIRTUAL_BYTES, Gauge, "Address space of the process"),
        (PROCESS_THREADS, Gauge, "Threads of the process"),
        (PROCESS_FILES, Gauge, "Open file descriptors, sockets included"),
        (PROCESS_FILES_MAX, Gauge, "File descriptors that may be open"),
        (PROCESS_START, Gauge, "When the process started, since the epoch"),
        (MACHINE_CPUS, Gauge, "CPUs that the process may use"),
        (MACHINE_LOAD, Gauge, "Load average of a minute"),
        (MACHINE_BYTES, Gauge, "Memory of the machine"),
        (MACHINE_USED_BYTES, Gauge, "Memory of the machine in use, by everyone"),
        (GROUP_BYTES, Gauge, "Memory of the control group in use, page cache included"),
        (GROUP_BYTES_MAX, Gauge, "Memory that the control group may use"),
        (GROUP_THROTTLED, Counter, "Time the control group waited for its CPU quota"),
        (DISK_BYTES, Gauge, "Size of the file system that has the models"),
        (DISK_FREE_BYTES, Gauge, "Free bytes of the file system that has the models"),
        (RUNTIME_WORKERS, Gauge, "Network threads"),
        (RUNTIME_TASKS, Gauge, "Asynchronous tasks alive"),
        (RUNTIME_QUEUE, Gauge, "Asynchronous tasks that wait for a network thread"),
        (RUNTIME_BUSY, Counter, "Time that network threads were busy"),
        (COMPUTE_THREADS, Gauge, "Threads of the compute pool"),
        (TRACES_EXPORTED, Counter, "Traces that the collector took"),
        (TRACES_DROPPED, Counter, "Traces lost: the queue was full or the collector away"),
        (STORE_UP, Gauge, "1 if the store is open and took what was last written"),
        (STORE_QUERY, Histogram, "A query's time; `acquire`: waiting for a connection"),
        (STORE_QUERY_FAILURES, Counter, "Queries that failed or took too long"),
        (STORE_WRITTEN_ROWS, Counter, "Rows written"),
        (STORE_LOST_ROWS, Counter, "Rows lost: the queue was full, or the store refused"),
        (STORE_QUEUED_ROWS, Gauge, "Rows that wait to be written"),
        (STORE_CONNECTIONS, Gauge, "Connections to the store, by whether they are in use"),
        (STORE_ROWS, Gauge, "Rows of a table"),
        (STORE_BYTES, Gauge, "Size of the store"),
        (STORE_JOB, Histogram, "A background job's time"),
        (STORE_DROPPED_ROWS, Counter, "Rows that a background job dropped"),
        (SHARED_UP, Gauge, "1 while the cache that replicas share is asked"),
        (SHARED_EXCHANGE, Histogram, "A round trip to the cache that replicas share"),
        (SHARED_FAILURES, Counter, "Round trips without an answer in time, by reason"),
        (SHARED_TRIPS, Counter, "Times that the shared cache was given up for a while"),
        (SHARED_SKIPPED, Counter, "Answers not asked for while it was given up"),
        (SHARED_WRITTEN, Counter, "Answers written to the shared cache"),
        (SHARED_LOST, Counter, "Answers not written to the shared cache, by reason"),
        (BUILD_INFO, Gauge, "1, with the version as a label"),
    ]
};
