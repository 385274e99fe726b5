"""A domain whose disks a host component serves: what it finds, how it runs, and how it goes on after a failure."""
