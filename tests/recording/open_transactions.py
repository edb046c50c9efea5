"""Opens the dataset `transactions` of a recording with each reader, as an analyst would, and prints the same sums."""

import sys

import duckdb
import pandas
import polars
import pyarrow.dataset

root = sys.argv[1] + "/transactions"

(rows, errors, size, target, nulls) = duckdb.sql(f"""
    select count(*), count(*) filter (error), sum(response_bytes),
           max(target) filter (seq = 1), count(*) filter (server_port is null)
    from read_parquet('{root}/**/*.parquet', hive_partitioning = true)
    where date is not null and hour is not null
""").fetchall()[0]
print(f"duckdb rows={rows} errors={errors} bytes={size} target={target} nulls={nulls}")

table = pyarrow.dataset.dataset(root, format="parquet", partitioning="hive").to_table()
frame = table.to_pandas()


def show(name, frame):
    target = frame[frame["seq"] == 1]["target"].iloc[0]
    nulls = int(frame["server_port"].isna().sum())
    print(f"{name} rows={len(frame)} errors={int(frame['error'].sum())} bytes={int(frame['response_bytes'].sum())} "
          f"target={target} nulls={nulls}")


show("pyarrow", frame)
show("pandas", pandas.read_parquet(root))

frame = polars.read_parquet(root + "/**/*.parquet", hive_partitioning=True)
target = frame.filter(polars.col("seq") == 1)["target"][0]
print(f"polars rows={len(frame)} errors={frame['error'].sum()} bytes={frame['response_bytes'].sum()} "
      f"target={target} nulls={frame['server_port'].null_count()}")
