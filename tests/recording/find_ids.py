"""Reads conditions in SQL, one a line, and prints the ids of the recorded transactions that fulfil each, one line per condition."""

import sys

import duckdb

root = sys.argv[1] + "/transactions"
for condition in sys.stdin:
    ids = duckdb.sql(f"""
        select id from read_parquet('{root}/**/*.parquet', hive_partitioning = true) where {condition}
    """).fetchall()
    print(*(row[0] for row in ids))
