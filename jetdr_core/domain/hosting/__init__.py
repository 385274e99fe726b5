"""A domain whose disks a host component serves: what it finds, how it runs, how it goes on after a failure."""
