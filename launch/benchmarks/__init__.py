"""`avemo benchmark {pipeline,train}`: how fast this is, against the machine's limits and against others."""
