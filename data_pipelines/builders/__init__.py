"""Prepared datasets: what the readers yield becomes ArrayRecord.

Each corpus has a `Recipe` (what is read, what becomes of one item); one `DatasetBuilder` cooks them all, by
processes on this machine or by Apache Beam on many.
"""
