"""Everything on one machine: `airlock run` starts what was not given and stops what it started."""
