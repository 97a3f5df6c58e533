"""Writes deploy/grafana/postsort.json: panels are told here in a line each, and laid out by code."""
import json, pathlib, sys

RATE = "[$__rate_interval]"
S = '{instance=~"$instance"}'
M = '{instance=~"$instance",model=~"$model"}'


def quantiles(metric, labels, by):
    inner = f"sum by (le{',' + by if by else ''}) (rate({metric}_bucket{labels}{RATE}))"
    return [(f"histogram_quantile({q}, {inner})", f"p{q * 100:.0f}" + (f" {{{{{by}}}}}" if by else "")) for q in (0.5, 0.95, 0.99)]


TOTAL = '{instance=~"$instance",model=~"$model",stage="total"}'
# (row, [(title, unit, kind, [(query, legend)])])
ROWS = [
    ("Objectives", [
        ("Objectives met", "none", "stat", [(f"postsort_slo_met{S}", "{{slo}}")]),
        ("Alerts firing", "none", "stat", [('sum by (alertname) (ALERTS{alertstate="firing",alertname=~"Postsort.*"}) or vector(0)', "{{alertname}}")]),
        ("Ready", "none", "stat", [(f"postsort_ready{S}", "{{instance}}")]),
        ("Requests answered", "reqps", "stat", [(f"sum(rate(postsort_inference_requests_total{{instance=~\"$instance\",outcome=\"ok\"}}{RATE}))", "ok")]),
    ]),
    ("Requests", [
        ("Latency by model", "s", "timeseries", quantiles("postsort_inference_duration_seconds", TOTAL, "model")),
        ("Requests by model and outcome", "reqps", "timeseries", [(f"sum by (model, outcome) (rate(postsort_inference_requests_total{M}{RATE}))", "{{model}} {{outcome}}")]),
        ("p95 by stage", "s", "timeseries", [(f"histogram_quantile(0.95, sum by (le, stage) (rate(postsort_inference_duration_seconds_bucket{M}{RATE})))", "{{stage}}")]),
        ("p95 now and a week ago", "s", "timeseries", [(f"postsort:latency_p95:1h{M}", "{{model}}"), (f"postsort:latency_p95:1h{M} offset 1w", "{{model}} a week ago")]),
        ("Endpoints: p99", "s", "timeseries", [(f"histogram_quantile(0.99, sum by (le, endpoint) (rate(postsort_http_request_duration_seconds_bucket{S}{RATE})))", "{{endpoint}}")]),
        ("Endpoints: requests by status", "reqps", "timeseries", [(f"sum by (endpoint, status) (rate(postsort_http_requests_total{S}{RATE}))", "{{endpoint}} {{status}}")]),
        ("In flight", "none", "timeseries", [(f"postsort_http_requests_in_flight{S}", "{{endpoint}}")]),
        ("Body bytes", "Bps", "timeseries", [(f"sum(rate(postsort_http_request_bytes_total{S}{RATE}))", "in"), (f"sum(rate(postsort_http_response_bytes_total{S}{RATE}))", "out")]),
    ]),
    ("Engine and cache", [
        ("Queue", "none", "timeseries", [(f"postsort_queue_tokens{M}", "tokens {{model}}"), (f"postsort_queue_jobs{S}", "mails"), (f"postsort_queue_jobs_max{S}", "mails at most")]),
        ("Refused", "reqps", "timeseries", [(f"sum by (model, reason) (rate(postsort_rejected_total{M}{RATE}))", "{{model}} {{reason}}")]),
        ("Mails and tokens in a forward pass, mean", "none", "timeseries", [(f"sum by (model) (rate(postsort_batch_{what}_sum{M}{RATE})) / sum by (model) (rate(postsort_batch_{what}_count{M}{RATE}))", f"{what} {{{{model}}}}") for what in ("jobs", "tokens")]),
        ("Mails answered", "none", "timeseries", [(f"sum by (model) (rate(postsort_inference_mails_total{M}{RATE}))", "{{model}}")]),
        ("Share answered from the result cache", "percentunit", "timeseries", [(f"sum by (model) (rate(postsort_result_cache_hits_total{M}{RATE})) / (sum by (model) (rate(postsort_result_cache_hits_total{M}{RATE})) + sum by (model) (rate(postsort_result_cache_misses_total{M}{RATE})))", "{{model}}")]),
        ("Result cache", "bytes", "timeseries", [(f"postsort_result_cache_bytes{S}", "used"), (f"postsort_result_cache_bytes_max{S}", "at most")]),
        ("Result cache: entries and evictions", "none", "timeseries", [(f"postsort_result_cache_entries{S}", "entries"), (f"rate(postsort_result_cache_evictions_total{S}{RATE})", "evictions a second")]),
    ]),
    ("Shared cache and store", [
        ("Mails by where the answer was", "none", "timeseries", [(f"sum by (tier) (rate(postsort_result_cache_hits_total{M}{RATE}))", "{{tier}}"), (f"sum(rate(postsort_result_cache_misses_total{M}{RATE}))", "computed")]),
        ("Shared cache: round trips, p99", "s", "timeseries", [(f"histogram_quantile(0.99, sum by (le, command) (rate(postsort_shared_cache_exchange_duration_seconds_bucket{S}{RATE})))", "{{command}}")]),
        ("Shared cache: late, failed, skipped, lost", "none", "timeseries", [(f"sum by (command, reason) (rate(postsort_shared_cache_failures_total{S}{RATE}))", "{{command}} {{reason}}"), (f"sum(rate(postsort_shared_cache_skipped_total{S}{RATE}))", "skipped"), (f"sum by (reason) (rate(postsort_shared_cache_lost_total{S}{RATE}))", "lost {{reason}}")]),
        ("Store: mean of a query", "s", "timeseries", [(f"sum by (query) (rate(postsort_store_query_duration_seconds_sum{S}{RATE})) / sum by (query) (rate(postsort_store_query_duration_seconds_count{S}{RATE}))", "{{query}}")]),
        ("Store: rows written and lost", "none", "timeseries", [(f"sum(rate(postsort_store_written_rows_total{S}{RATE}))", "written"), (f"sum by (reason) (rate(postsort_store_lost_rows_total{S}{RATE}))", "lost {{reason}}"), (f"postsort_store_queued_rows{S}", "waiting")]),
        ("Store: size", "bytes", "timeseries", [(f"postsort_store_bytes{S}", "bytes")]),
    ]),
    ("Answers", [
        ("Share of each label", "percentunit", "timeseries", [(f"postsort_answer_label_share{M}", "{{model}} {{label}}")]),
        ("Mean score of the first label", "percentunit", "timeseries", [(f"postsort_answer_confidence_mean{M}", "{{model}}")]),
        ("Distance from the model's reference", "none", "timeseries", [(f"postsort_drift{M}", "{{model}} {{of}}")]),
        ("Mails: tokens, unknown tokens", "none", "timeseries", [(f"postsort_answer_tokens_mean{M}", "{{model}} tokens"), (f"100 * postsort_answer_unknown_token_share{M}", "{{model}} unknown, per cent"), (f"postsort_answer_mails{M}", "{{model}} mails of the last hour")]),
        ("Agreement: of people, of a revision on trial", "percentunit", "timeseries", [(f"sum by (model) (increase(postsort_{what}_total{M[:-1]},agreed=\"true\"}}[1h])) / sum by (model) (increase(postsort_{what}_total{M}[1h]))", f"{{{{model}}}} {who}") for what, who in (("feedback", "people"), ("shadow_mails", "on trial"))]),
        ("Escalated: share of a cascade's mails, of long mails skimmed", "percentunit", "timeseries", [(f"sum by (model) (rate(postsort_{what}_mails_total{M[:-1]},escalated=\"true\"}}{RATE})) / sum by (model) (rate(postsort_{what}_mails_total{M}{RATE}))", f"{{{{model}}}} {what}") for what in ("cascade", "skimmed")]),
    ]),
    ("Models and memory", [
        ("Models' memory against the budget", "bytes", "timeseries", [(f"postsort_model_resident_bytes{M} > 0", "{{model}} {{device}}"), (f"postsort_memory_used_bytes{S}", "all {{device}}"), (f"postsort_memory_budget_bytes{S}", "budget {{device}}")]),
        ("Devices: memory", "bytes", "timeseries", [(f"postsort_device_memory_free_bytes{S}", "{{device}} free"), (f"postsort_device_memory_bytes{S}", "{{device}} in all")]),
        ("Devices out of memory", "none", "timeseries", [(f"increase(postsort_device_out_of_memory_total{S}{RATE})", "{{device}} {{action}}")]),
        ("State", "none", "timeseries", [(f"postsort_model_state{M} == 1", "{{model}} {{state}}"), (f"postsort_model_pinned{M} == 1", "{{model}} pinned")]),
        ("Loads, failures, evictions", "none", "timeseries", [(f"increase(postsort_model_load_duration_seconds_count{M}{RATE})", "{{model}} loaded"), (f"increase(postsort_model_load_failures_total{M}{RATE})", "{{model}} failed"), (f"increase(postsort_evictions_total{M}{RATE})", "{{model}} evicted")]),
        ("Load time, p95", "s", "timeseries", [(f"histogram_quantile(0.95, sum by (le, model) (rate(postsort_model_load_duration_seconds_bucket{M}{RATE})))", "{{model}}")]),
        ("Leases", "none", "timeseries", [(f"postsort_model_leases{M}", "{{model}}")]),
    ]),
    ("Process and machine", [
        ("CPU", "none", "timeseries", [(f"rate(postsort_process_cpu_seconds_total{S}{RATE})", "cores used"), (f"postsort_machine_cpus{S}", "cores given"), (f"postsort_machine_load1{S}", "load"), (f"postsort_compute_threads{S}", "compute threads"), (f"rate(postsort_cgroup_cpu_throttled_seconds_total{S}{RATE})", "throttled")]),
        ("Memory", "bytes", "timeseries", [(f"postsort_process_resident_bytes{S}", "process"), (f"postsort_machine_memory_used_bytes{S}", "machine used"), (f"postsort_machine_memory_bytes{S}", "machine")]),
        ("Network threads: busy share", "percentunit", "timeseries", [(f"rate(postsort_runtime_busy_seconds_total{S}{RATE}) / postsort_runtime_workers{S}", "busy")]),
        ("Asynchronous tasks", "none", "timeseries", [(f"postsort_runtime_tasks{S}", "alive"), (f"postsort_runtime_queue_tasks{S}", "waiting")]),
        ("Files and threads", "none", "timeseries", [(f"postsort_process_open_files{S}", "files"), (f"postsort_process_open_files_max{S}", "files at most"), (f"postsort_process_threads{S}", "threads")]),
        ("Disk of the models", "bytes", "timeseries", [(f"postsort_disk_free_bytes{S}", "free"), (f"postsort_disk_bytes{S}", "size")]),
    ]),
]

SOURCE = {"type": "prometheus", "uid": "${source}"}


def variable(name, query):
    return {"name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


def main():
    panels, y, number = [], 0, 0
    for row, members in ROWS:
        number += 1
        panels.append({"id": number, "type": "row", "title": row, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "collapsed": False, "panels": []})
        y += 1
        width, height = (6, 4) if members[0][2] == "stat" else (12, 8)
        for at, (title, unit, kind, queries) in enumerate(members):
            number += 1
            place = {"x": at * width % 24, "y": y + at * width // 24 * height, "w": width, "h": height}
            targets = [{"refId": chr(65 + n), "datasource": SOURCE, "expr": query, "legendFormat": legend} for n, (query, legend) in enumerate(queries)]
            panels.append({"id": number, "type": kind, "title": title, "datasource": SOURCE, "gridPos": place, "targets": targets, "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []}})
        y += -(-len(members) * width // 24) * height
    dashboard = {
        "uid": "postsort", "title": "Postsort", "tags": ["postsort"], "timezone": "browser", "schemaVersion": 39, "editable": True,
        "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "panels": panels,
        "templating": {"list": [
            {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            variable("instance", "label_values(postsort_build_info, instance)"),
            variable("model", "label_values(postsort_model_state{instance=~\"$instance\"}, model)"),
        ]},
    }
    path = pathlib.Path(__file__).resolve().parent.parent / "deploy/grafana/postsort.json"
    text = json.dumps(dashboard, indent=1) + "\n"
    if "--check" in sys.argv:
        sys.exit(path.read_text() != text and f"{path} is not what {sys.argv[0]} writes")
    path.write_text(text)


main()
