/* bypassed_file.c: see bypassed_file.h. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bypassed_file.h"

static int make_spare(const struct jdr_bypassed_file *file)
{
    int fd = open(file->spare, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int result = fsync(fd) || fsync(file->folder) ? -errno : 0;
    close(fd);
    return result;
}

static int open_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int result = fd < 0 ? -(copy ? errno : ENOMEM) : fd;
    free(copy);
    return result;
}

int jdr_bypassed_file_open(struct jdr_bypassed_file *file, const char *path)
{
    *file = (struct jdr_bypassed_file){.path = strdup(path), .folder = open_folder(path)};
    if (file->folder < 0)
        return file->folder;
    if (!file->path || asprintf(&file->spare, "%s.spare", path) < 0) {
        file->spare = NULL;
        return -ENOMEM;
    }
    return make_spare(file);
}

void jdr_bypassed_file_close(struct jdr_bypassed_file *file)
{
    if (file->folder >= 0)
        close(file->folder);
    free(file->spare);
    free(file->path);
}

int jdr_bypassed_file_make(const struct jdr_bypassed_file *file)
{
    if (rename(file->spare, file->path) && access(file->path, F_OK)) { /* off again before there was a spare */
        int result = make_spare(file);
        if (result || rename(file->spare, file->path))
            return result ? result : -errno;
    }
    return fsync(file->folder) ? -errno : 0;
}

void jdr_bypassed_file_remove(const struct jdr_bypassed_file *file)
{
    if (unlink(file->path) == 0)
        fsync(file->folder);
}

void jdr_bypassed_file_clear(const struct jdr_bypassed_file *file)
{
    if (access(file->path, F_OK) == 0)
        jdr_bypassed_file_remove(file);
    if (access(file->spare, F_OK))
        make_spare(file);
}
