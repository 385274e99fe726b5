/* parameters.h: the plugin's parameters, key=value on nbdkit's command line. */
#ifndef JETDR_NBDKIT_PARAMETERS_H
#define JETDR_NBDKIT_PARAMETERS_H

#include "host.h"

#define NBDKIT_PARAMETERS_HELP                                                          \
    "ring=PATH              the domain's ring; without it nothing is protected\n"       \
    "control=PATH           socket over which disks are added and removed\n"            \
    "domain=UUID            refuse the ring of another domain\n"                        \
    "stall-limit=SECONDS    a write waits no longer for replication (default 2.0)\n"    \
    "write-back=PATH        the bypassed file of a write-back ring\n"                   \
    "map-folder=PATH        where dirty maps lie; by default beside their disks\n"      \
    "log-limit=BYTES        standard error is a file, which is kept about that short\n" \
    "disk=NUMBER:NAME:SIZE:PATH   a disk to serve from the start; may be repeated"

extern struct host_options nbdkit_parameters;

/* nbdkit's .config and .config_complete: 0, or -1 after the error was reported. */
int nbdkit_parameters_set(const char *key, const char *value);
int nbdkit_parameters_check(void);
void nbdkit_parameters_free(void);

#endif
