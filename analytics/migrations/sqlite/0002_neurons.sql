-- Work of the embedded engine. Rows from before this column have none.
ALTER TABLE attempts ADD COLUMN neurons REAL;
