module l7mp.io/cluster/pause

go 1.26.0
