/*
 * bypassed_file.h: write-back: the file that says that writes bypassed the log.
 *
 * After a power loss the log is replayed over the primaries. A replay would destroy writes that bypassed the log,
 * because only the primaries have them. This file says that there are such writes, and forbids the replay. So it is
 * durable before the first of them. It must not stay while logging is on, because it would then forbid the replay of
 * what the log alone holds.
 *
 * Invariant: a spare stands ready to be renamed, so a full file system does not prevent the file.
 */
#ifndef JETDR_BYPASSED_FILE_H
#define JETDR_BYPASSED_FILE_H

struct jdr_bypassed_file {
    char *path, *spare;
    int folder;
};

/* Name the file, and make its spare: 0 or -errno. The caller closes it in either case. */
int jdr_bypassed_file_open(struct jdr_bypassed_file *file, const char *path);
void jdr_bypassed_file_close(struct jdr_bypassed_file *file);
/* Make the file durably: 0 or -errno. A file that exists already will do. */
int jdr_bypassed_file_make(const struct jdr_bypassed_file *file);
void jdr_bypassed_file_remove(const struct jdr_bypassed_file *file);
/* Logging is on: remove a file that was made after the DRVA had removed it, and make the spare of the next one. */
void jdr_bypassed_file_clear(const struct jdr_bypassed_file *file);

#endif
