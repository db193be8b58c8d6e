"""Real servers for the tests, each started on free loopback ports and stopped with everything it started."""
