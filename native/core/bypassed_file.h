/*
 * bypassed_file.h: write-back: the file that says that writes bypassed the log.
 *
 * After a power loss the log is replayed over the primaries, unless this file is there: then the primaries have writes
 * that the log lacks, and a replay would destroy them. So the file is durable before the first write that bypasses the
 * log, and it must not stay beside logging that is on, as it would forbid the replay of what the log alone holds.
 *
 * Invariant: a spare stands ready, and is renamed, so that a full file system does not prevent the file.
 */
#ifndef JETDR_BYPASSED_FILE_H
#define JETDR_BYPASSED_FILE_H

struct jdr_bypassed_file {
    char *path, *spare;
    int folder;
};

/* Name the file, and make its spare: 0 or -errno. To be closed in any case. */
int jdr_bypassed_file_open(struct jdr_bypassed_file *file, const char *path);
void jdr_bypassed_file_close(struct jdr_bypassed_file *file);
/* Make the file, durably: 0 or -errno. One that is there already will do. */
int jdr_bypassed_file_make(const struct jdr_bypassed_file *file);
void jdr_bypassed_file_remove(const struct jdr_bypassed_file *file);
/* Logging is on: remove a file that came too late for whoever removes it, and make the next one's spare. */
void jdr_bypassed_file_clear(const struct jdr_bypassed_file *file);

#endif
