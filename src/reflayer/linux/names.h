/* What the files in C share: a folder's names, in turns, and new files. */
#define Py_LIMITED_API 0x030b0000 /* Python 3.11 and later load the same file */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE /* musl has struct dirent64 only with it */
#include <Python.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_openat2 /* headers before Linux 5.6; the number is the same on every architecture */
#define SYS_openat2 437
#endif
#define BUFFER 16384             /* bytes of directory entries: some 500 names */
#define LONGEST_ENTRY 280        /* bytes: the largest that getdents64(2) has */
#define TURN 20000000            /* nanoseconds */
#define SECOND 1000000000        /* nanoseconds */
#define NEW_FILE (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
#define DONE 255                 /* as d_type: nothing is left to do */
#define MADE 254                 /* as d_type: a folder that was made, to be gone into */

struct names {
    char data[BUFFER] __attribute__((aligned(8)));
    Py_ssize_t used, at; /* bytes of entries in data, and where the next one begins */
    int ended, error;    /* the folder has no more; what getdents64(2) ended with */
    int64_t stop;        /* when the turn is over, in nanoseconds */
};

static inline int64_t nanoseconds(const struct timespec *t)
{
    return (int64_t)t->tv_sec * SECOND + t->tv_nsec;
}

static inline int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return nanoseconds(&t);
}

/* Fill the rest of the buffer. */
static inline void add_names(struct names *n, int folder)
{
    n->ended = 0;
    while (BUFFER - n->used >= LONGEST_ENTRY) {
        long got = syscall(SYS_getdents64, folder, n->data + n->used, (size_t)(BUFFER - n->used));
        if (got <= 0) {
            n->error = got < 0 ? errno : 0;
            n->ended = got == 0;
            return;
        }
        n->used += got;
    }
}

/* Fill the buffer, unless entries were left by the last call. */
static inline void read_names(struct names *n, int folder)
{
    n->stop = now() + TURN;
    if (n->used == 0) add_names(n, folder);
}

static inline int is_dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* The next entry; NULL at the end of the buffer, or of the turn. "." and ".." are left out. */
static inline struct dirent64 *next_name(struct names *n)
{
    while (n->at < n->used && (n->at == 0 || now() <= n->stop)) {
        struct dirent64 *entry = (struct dirent64 *)(n->data + n->at);
        n->at += entry->d_reclen;
        if (!is_dots(entry->d_name)) return entry;
        entry->d_type = DONE;
    }
    return NULL;
}

/* Take what the last call left; -1 with an exception where it is not that. */
static inline int take_left(struct names *n, Py_buffer *left)
{
    Py_ssize_t used = left->len, at = 0, head = offsetof(struct dirent64, d_name);
    if (used <= BUFFER)
        memcpy(n->data, left->buf, (size_t)used);
    PyBuffer_Release(left);
    while (at < used) {
        struct dirent64 *entry = (struct dirent64 *)(n->data + at);
        Py_ssize_t rest = used - at;
        if (used > BUFFER || rest <= head || entry->d_reclen <= head || entry->d_reclen > rest ||
            entry->d_reclen % 8 || !memchr(entry->d_name, 0, (size_t)(entry->d_reclen - head))) {
            PyErr_SetString(PyExc_ValueError, "left is not what a call returned");
            return -1;
        }
        at += entry->d_reclen;
    }
    n->used = used;
    n->at = n->ended = n->error = 0;
    return 0;
}

/* Sort some entries: names of type MADE, if there is a list of those, and (type, name) of others,
 * with is_all also of what is DONE. */
static inline int hand_back(const struct names *n, Py_ssize_t at, Py_ssize_t end,
                            PyObject *folders, PyObject *rest, int is_all)
{
    while (at < end) {
        const struct dirent64 *entry = (const struct dirent64 *)(n->data + at);
        PyObject *list = entry->d_type == MADE && folders ? folders : rest, *item;
        at += entry->d_reclen;
        if (entry->d_type == DONE && !is_all) continue;
        item = list == folders ? PyBytes_FromString(entry->d_name)
                               : Py_BuildValue("(iy)", (int)entry->d_type, entry->d_name);
        int failed = item == NULL || PyList_Append(list, item) < 0;
        Py_XDECREF(item);
        if (failed) return -1;
    }
    return 0;
}

/* What each function returns: (facts, folders, rest, left); takes over facts. */
static inline PyObject *result_of(struct names *n, PyObject *facts)
{
    PyObject *folders = PyList_New(0), *rest = PyList_New(0), *left, *result = NULL;
    if (facts == NULL || folders == NULL || rest == NULL) goto end;
    if (n->error && n->used == 0) {
        errno = n->error;
        PyErr_SetFromErrno(PyExc_OSError);
        goto end;
    }
    if (hand_back(n, 0, n->at, folders, rest, 0) < 0) goto end;
    left = n->at >= n->used && n->ended /* the folder has no more */
               ? Py_NewRef(Py_None)
               : PyBytes_FromStringAndSize(n->data + n->at, n->used - n->at);
    result = left == NULL ? NULL : PyTuple_Pack(4, facts, folders, rest, left);
    Py_XDECREF(left);
end:
    Py_XDECREF(facts);
    Py_XDECREF(folders);
    Py_XDECREF(rest);
    return result;
}

/* Open a folder beneath another, with no link or mount on the way; with no path it is that one. */
static inline int enter(int folder, const char *path)
{
    uint64_t how[3] = {O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC, 0, 0x0D};
    return *path ? (int)syscall(SYS_openat2, folder, path, how, sizeof how) : folder;
}

/* Open a file to read it, so that this leaves no trace where we may. */
static inline int open_file(int folder, const char *name)
{
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = openat(folder, name, flags | O_NOATIME);
    if (fd < 0 && errno == EPERM) /* O_NOATIME is for the owner and for CAP_FOWNER: open(2) */
        fd = openat(folder, name, flags);
    return fd;
}

static inline int write_all(int fd, const char *data, size_t size, off_t at)
{
    while (size > 0) {
        ssize_t written = pwrite(fd, data, size, at);
        if (written <= 0) return -1;
        data += written;
        size -= (size_t)written;
        at += written;
    }
    return 0;
}

/* Give a new file what its birth did not, and close it; where that or what came before has
 * failed, undo it. Whether it stays. */
static inline int finish_file(int fd, int folder, const char *name, int has_failed,
                              const struct stat *s, int to_chown, mode_t withheld)
{
    if (has_failed || (to_chown && fchown(fd, s->st_uid, s->st_gid) < 0) ||
        (s->st_mode & withheld && fchmod(fd, s->st_mode & 0777) < 0) ||
        futimens(fd, (struct timespec[]){s->st_atim, s->st_mtim}) < 0)
        has_failed = 1;
    if (close(fd) < 0 || has_failed) {
        unlinkat(folder, name, 0);
        return 0;
    }
    return 1;
}

/* clone.c */
PyObject *clone_names(PyObject *self, PyObject *args);
PyObject *clone_merged(PyObject *self, PyObject *args);

/* tar.c */
PyObject *tar_entry(PyObject *self, PyObject *args);
