"""Adds up rollups by service, role and minute (hours by hour) and compares them with the same sums over the transactions."""

import sys

import duckdb

root = sys.argv[1]
rollups = f"read_parquet('{root}/rollups/**/*.parquet', hive_partitioning = true)"
transactions = f"read_parquet('{root}/transactions/**/*.parquet', hive_partitioning = true)"


def direct(length):
    return f"""
        select end_time_ns // {length} as interval, service, role, count(*)::hugeint as n, count(*) filter (error)::hugeint as errors,
               coalesce(sum(duration_ns) filter (measured), 0)::hugeint as duration,
               coalesce(max(duration_ns) filter (measured), 0)::hugeint as longest,
               count(*) filter (measured)::hugeint as n_measured,
               sum(request_bytes)::hugeint as request, sum(response_bytes)::hugeint as response
        from (select *, "end" = 'answered' and kind in ('request', 'function') and duration_ns > 0 as measured
              from {transactions} where "end" != 'tracer_stopped')
        group by all
    """


def summed(length, by):
    return f"""
        select interval_start_ns // {by} as interval, service, role, sum(count)::hugeint as n, sum(errors)::hugeint as errors,
               sum(duration_sum_ns)::hugeint as duration, max(duration_max_ns)::hugeint as longest,
               sum(measured)::hugeint as n_measured,
               sum(request_bytes)::hugeint as request, sum(response_bytes)::hugeint as response
        from {rollups} where interval_ns = {length} and service is not null group by all
    """


second, minute, hour = 10**9, 60 * 10**9, 3600 * 10**9
print("minutes", duckdb.sql(f"select count(*) from ({direct(minute)})").fetchall()[0][0])
for length, by in ((second, minute), (minute, minute), (hour, hour)):
    ((differ,),) = duckdb.sql(f"""
        select count(*) from (
            (({direct(by)}) except ({summed(length, by)})) union all (({summed(length, by)}) except ({direct(by)}))
        )
    """).fetchall()
    print(f"differ {length // second}s {differ}")
print("count {} errors {} hdr {}".format(*duckdb.sql(f"""
    select sum(count)::bigint, sum(errors)::bigint, sum(measured)::bigint from {rollups} where interval_ns = {second}
""").fetchall()[0]))
print("silent", duckdb.sql(f"""
    select count(*) from {rollups} as host where interval_ns = {second} and service is null and recorded_ns = {second}
    and not exists (select 1 from {rollups} as other where other.interval_ns = {second} and other.service is not null
                    and other.interval_start_ns = host.interval_start_ns)
""").fetchall()[0][0])
