-- Work of the embedded engine. Rows from before this column have none.
ALTER TABLE attempts ADD COLUMN IF NOT EXISTS neurons Nullable(Float64) CODEC(ZSTD(1)) AFTER collect;
