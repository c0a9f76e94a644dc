/* One thing done to many names of one open folder, without the interpreter's lock.
 *
 * Python is the definition of all that happens here. Each function does the names that are
 * ordinary with the fewest system calls and hands back every other: one with an attribute, an ACL,
 * several names or setuid bits, of another type than it was told to be, or with any error, which
 * is undone first. What is handed back Python does itself, and it makes the error messages.
 *
 * A call reads and works on at most one buffer of names and not much longer than TURN, so that
 * signals are seen between two names and nothing grows with the folder. What it read but did not
 * come to it returns as "left", to be given to the next call.
 */
#define Py_LIMITED_API 0x030b0000 /* Python 3.11 and later load the same file */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE /* musl has struct dirent64 only with it */
#include <Python.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_openat2 /* headers before Linux 5.6; the number is the same on every architecture */
#define SYS_openat2 437
#endif
#define FICLONE_IOCTL 0x40049409 /* _IOW(0x94, 9, int): linux/fs.h */
#define BUFFER 16384             /* bytes of directory entries: some 500 names */
#define LONGEST_ENTRY 280        /* bytes: the largest that getdents64(2) has */
#define TURN 20000000            /* nanoseconds */
#define LARGEST (4 << 20)        /* bytes that are moved here: what is larger takes its time */
#define PIECE (256 << 10)        /* bytes that are read at once */
#define HOLE 4096                /* bytes: so many zeros become one */
#define SECOND 1000000000        /* nanoseconds */
#define NEW_FILE (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
#define FILES 64                 /* that are made in one call at most */
#define DONE 255                 /* as d_type: nothing is left to do */
#define MADE 254                 /* as d_type: a folder that was made, to be gone into */
#define LINKED 253               /* as d_type: the same, but its inode has several names */
#define HELD 252                 /* as d_type: a file that somebody has open */
#define JOINED 251               /* as d_type: part of a folder that a layer above has, too */
#define LAYERS 256               /* of a stack that are looked at */
#define OPEN 16                  /* of a stack that are open at once in a folder */
#define ABOVE 6144               /* bytes of entries: each name is compared with each of those */

struct names {
    char data[BUFFER] __attribute__((aligned(8)));
    Py_ssize_t used, at; /* bytes of entries in data, and where the next one begins */
    int ended, error;    /* the folder has no more; what getdents64(2) ended with */
    int64_t stop;        /* when the turn is over, in nanoseconds */
};

static int64_t nanoseconds(const struct timespec *t)
{
    return (int64_t)t->tv_sec * SECOND + t->tv_nsec;
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return nanoseconds(&t);
}

/* Fill the rest of the buffer. */
static void add_names(struct names *n, int folder)
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
static void read_names(struct names *n, int folder)
{
    n->stop = now() + TURN;
    if (n->used == 0) add_names(n, folder);
}

static int is_dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* The next entry; NULL at the end of the buffer, or of the turn. "." and ".." are left out. */
static struct dirent64 *next_name(struct names *n)
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
static int take_left(struct names *n, Py_buffer *left)
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
static int hand_back(const struct names *n, Py_ssize_t at, Py_ssize_t end, PyObject *folders,
                     PyObject *rest, int is_all)
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
static PyObject *result_of(struct names *n, PyObject *facts)
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
static int enter(int folder, const char *path)
{
    uint64_t how[3] = {O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC, 0, 0x0D};
    return *path ? (int)syscall(SYS_openat2, folder, path, how, sizeof how) : folder;
}

/* Open a file to read it, so that this leaves no trace where we may. */
static int open_file(int folder, const char *name)
{
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = openat(folder, name, flags | O_NOATIME);
    if (fd < 0 && errno == EPERM) /* O_NOATIME is for the owner and for CAP_FOWNER: open(2) */
        fd = openat(folder, name, flags);
    return fd;
}

static int write_all(int fd, const char *data, size_t size, off_t at)
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
static int finish_file(int fd, int folder, const char *name, int has_failed, const struct stat *s,
                       int to_chown, mode_t withheld)
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

struct clone {
    int src, dst;               /* the two folders */
    int method;                 /* 0 FICLONE, 1 copy_file_range, 2 read and write */
    uid_t uid;                  /* what is made in dst has these owners from its birth, */
    gid_t gid;
    mode_t withheld;            /* and never these bits of its mode */
    mode_t folder_mode;         /* what folders are made with */
    const char *leave;          /* names not to touch, each between two zeros; or NULL */
    Py_ssize_t leave_size;
    char *piece;                /* PIECE bytes, for method 2 */
    int refused;                /* the method failed for a file: the next may want another */
    long long files, links, folders, bytes;
};

static int is_to_leave(const struct clone *c, const char *name)
{
    char key[NAME_MAX + 3];
    if (c->leave_size == 0) return 0;
    int size = snprintf(key, sizeof key, "%c%s", 0, name);
    return size >= (int)sizeof key || memmem(c->leave, (size_t)c->leave_size, key,
                                                    (size_t)size + 1);
}

static int move_extent(const struct clone *c, int src, int dst, off_t at, off_t end)
{
    while (at < end) {
        size_t wanted = (size_t)(end - at);
        off_t from = at, to = at;
        ssize_t moved = c->method == 1
                            ? copy_file_range(src, &from, dst, &to, wanted, 0)
                            : pread(src, c->piece, wanted < PIECE ? wanted : PIECE, at);
        if (moved <= 0 || (c->method == 2 && write_all(dst, c->piece, (size_t)moved, at) < 0))
            return -1;
        at += moved;
    }
    return 0;
}

/* Move what is no hole; the bytes moved, or -1. */
static long long move_data(const struct clone *c, int src, int dst, off_t size)
{
    long long moved = 0;
    off_t start = 0;
    while (start < size) {
        start = lseek(src, start, SEEK_DATA);
        if (start < 0 && errno == ENXIO) break;
        off_t end = start < 0 ? -1 : lseek(src, start, SEEK_HOLE);
        if (end <= start) return -1;
        end = end > size ? size : end;
        /* First: a file system that expects a growing file to go on growing fills the holes. */
        if (moved == 0 && (start != 0 || end != size) && ftruncate(dst, size) < 0) return -1;
        if (move_extent(c, src, dst, start, end) < 0) return -1;
        moved += end - start;
        start = end;
    }
    return moved == 0 && ftruncate(dst, size) < 0 ? -1 : moved;
}

static int has_attributes(ssize_t size)
{
    return size > 0 || (size < 0 && errno != EOPNOTSUPP);
}

static int clone_file(struct clone *c, const char *name)
{
    struct stat s;
    long long moved = 0;
    char byte;
    int dst, is_made = 0, src = open_file(c->src, name);
    if (src < 0) return 0;
    if (fstat(src, &s) < 0 || !S_ISREG(s.st_mode) || s.st_nlink != 1 || s.st_mode & 07000 ||
        (c->method != 0 && s.st_size > LARGEST) || has_attributes(flistxattr(src, NULL, 0)) ||
        (s.st_size == 0 && pread(src, &byte, 1, 0) != 0)) /* a file of proc(5) has content */
        goto hand_back;
    dst = openat(c->dst, name, NEW_FILE, s.st_mode & 0777);
    if (dst < 0) goto hand_back;
    if (s.st_size > 0) {
        if (c->method == 0)
            moved = ioctl(dst, FICLONE_IOCTL, src) < 0 ? -1 : s.st_size;
        else
            moved = move_data(c, src, dst, s.st_size);
        c->refused = moved < 0;
    }
    is_made = finish_file(dst, c->dst, name, moved < 0 || lseek(src, 0, SEEK_END) != s.st_size, &s,
                          s.st_uid != c->uid || s.st_gid != c->gid, c->withheld);
    c->files += is_made;
    c->bytes += is_made ? moved : 0;
hand_back:
    close(src);
    return is_made;
}

static int clone_link(struct clone *c, const char *name)
{
    char target[PATH_MAX], path[NAME_MAX + 64];
    struct stat s;
    ssize_t size;
    if (fstatat(c->src, name, &s, AT_SYMLINK_NOFOLLOW) || !S_ISLNK(s.st_mode) || s.st_nlink != 1)
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d/%s", c->src, name);
    if (has_attributes(llistxattr(path, NULL, 0))) /* no such call takes a folder and a name */
        return 0;
    size = readlinkat(c->src, name, target, sizeof target);
    if (size <= 0 || (size_t)size >= sizeof target) return 0;
    target[size] = 0;
    if (symlinkat(target, c->dst, name) < 0) return 0;
    if (((s.st_uid != c->uid || s.st_gid != c->gid) &&
         fchownat(c->dst, name, s.st_uid, s.st_gid, AT_SYMLINK_NOFOLLOW) < 0) ||
        utimensat(c->dst, name, (struct timespec[]){s.st_atim, s.st_mtim}, AT_SYMLINK_NOFOLLOW)) {
        unlinkat(c->dst, name, 0);
        return 0;
    }
    c->links++;
    return 1;
}

static void clone_one(struct clone *c, struct dirent64 *entry)
{
    if ((entry->d_type == DT_REG && clone_file(c, entry->d_name)) ||
        (entry->d_type == DT_LNK && clone_link(c, entry->d_name)))
        entry->d_type = DONE;
    else if (entry->d_type == DT_DIR && mkdirat(c->dst, entry->d_name, c->folder_mode) == 0) {
        entry->d_type = MADE;
        c->folders++;
    }
}

static PyObject *clone_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct clone c = {0};
    struct names n;
    struct dirent64 *entry;
    Py_buffer left = {0};
    PyObject *result;
    if (!PyArg_ParseTuple(args, "iiiIIIIy#y*:clone_names", &c.src, &c.dst, &c.method, &c.uid,
                          &c.gid, &c.withheld, &c.folder_mode, &c.leave, &c.leave_size, &left) ||
        take_left(&n, &left) < 0)
        return NULL;
    if (c.method == 2 && (c.piece = malloc(PIECE)) == NULL) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    read_names(&n, c.src);
    while (!c.refused && (entry = next_name(&n)) != NULL)
        if (!is_to_leave(&c, entry->d_name)) clone_one(&c, entry);
    Py_END_ALLOW_THREADS
    result = result_of(&n, Py_BuildValue("(LLL)", c.files, c.links, c.bytes));
    free(c.piece);
    return result;
}

/* The last of the entries before end that has a name; NULL where there is none. */
static const struct dirent64 *last_named(const struct names *n, Py_ssize_t end, const char *name)
{
    const struct dirent64 *found = NULL, *entry;
    for (Py_ssize_t at = 0; at < end; at += entry->d_reclen) {
        entry = (const struct dirent64 *)(n->data + at);
        if (!strcmp(entry->d_name, name)) found = entry;
    }
    return found;
}

/* What an entry becomes by the one that hides it: part of the same folder, or nothing. */
static unsigned char hidden_type(const struct dirent64 *entry, const struct dirent64 *by)
{
    int is_folder = by->d_type == DT_DIR || by->d_type == MADE || by->d_type == JOINED;
    return entry->d_type == DT_DIR && is_folder ? JOINED : DONE;
}

/* Whether a difference's folder has no attribute but the mark that it lacks an entry. */
static int is_plain(int folder)
{
    char names[64];
    ssize_t size = flistxattr(folder, names, sizeof names);
    return !has_attributes(size) ||
           (size > 0 && size == (ssize_t)strlen(names) + 1 &&
            (!strcmp(names, "trusted.overlay.reflayer.implied") ||
             !strcmp(names, "user.overlay.reflayer.implied")));
}

/* Read what a layer above others has, and sort out what is hidden; 0 where not all is ordinary. */
static int read_above(const struct clone *c, struct names *above, int folder)
{
    struct stat s;
    Py_ssize_t at = above->used, start = at;
    add_names(above, folder);
    if (!above->ended || above->used > ABOVE) return 0;
    while (at < above->used) {
        struct dirent64 *entry = (struct dirent64 *)(above->data + at);
        const struct dirent64 *by = last_named(above, start, entry->d_name);
        at += entry->d_reclen;
        if (by != NULL || is_dots(entry->d_name))
            entry->d_type = by == NULL ? DONE : hidden_type(entry, by);
        else if (entry->d_type == DT_UNKNOWN || is_to_leave(c, entry->d_name) ||
                 (entry->d_type == DT_CHR &&
                  fstatat(folder, entry->d_name, &s, AT_SYMLINK_NOFOLLOW) < 0))
            return 0;
        else if (entry->d_type == DT_CHR && S_ISCHR(s.st_mode) && s.st_rdev == 0)
            entry->d_type = DONE; /* a whiteout */
    }
    return 1;
}

/* Make what the layers have, all of which were read but the last. */
static void clone_layers(struct clone *c, struct names *n, struct names *above,
                         const int *layers, const Py_ssize_t *ends, int last)
{
    struct dirent64 *entry;
    const struct dirent64 *by;
    n->stop = now() + TURN;
    for (int i = 0; i < last; i++) {
        c->src = layers[i];
        while (above->at < ends[i + 1] && !c->refused && now() <= n->stop) {
            entry = (struct dirent64 *)(above->data + above->at);
            above->at += entry->d_reclen;
            clone_one(c, entry);
        }
    }
    c->src = layers[last];
    add_names(n, c->src);
    while (!c->refused && (entry = next_name(n)) != NULL) {
        if ((by = last_named(above, above->used, entry->d_name)) != NULL)
            entry->d_type = hidden_type(entry, by);
        else if (!is_to_leave(c, entry->d_name))
            clone_one(c, entry);
    }
}

/* clone_merged(layers, path, avoid, device, dst, method, uid, gid, withheld, folder_mode, leave):
 * make in dst what the folder at path is in all of those layers, packed, the topmost first: a name
 * hides that of layers below, but folders are one. None, and nothing is made, where not all of them
 * are ordinary: on that device, not the inode to avoid, and above the last with few names and no
 * attributes. The facts are files, links, folders, bytes, the folder's descriptors, packed, and
 * (type, name) of what each but the last has, with MADE and JOINED; and DONE, if some is left. */
static PyObject *clone_merged(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct clone c = {0};
    struct names n, above;
    struct stat s;
    PyObject *told, *rest, *result = NULL;
    const char *packed, *path;
    unsigned long long avoid, device;
    Py_ssize_t size, ends[OPEN + 1] = {0};
    int layers[OPEN], last, i, opened = 0, is_ordinary = 1, is_whole;
    if (!PyArg_ParseTuple(args, "y#yKKiiIIIIy#:clone_merged", &packed, &size, &path, &avoid,
                          &device, &c.dst, &c.method, &c.uid, &c.gid, &c.withheld, &c.folder_mode,
                          &c.leave, &c.leave_size))
        return NULL;
    if (size < (Py_ssize_t)sizeof *layers || size > (Py_ssize_t)sizeof layers || !*path)
        Py_RETURN_NONE;
    if (c.method == 2 && (c.piece = malloc(PIECE)) == NULL) return PyErr_NoMemory();
    memcpy(layers, packed, (size_t)size);
    last = (int)((size_t)size / sizeof *layers) - 1;
    n.used = n.at = above.used = above.at = 0;
    n.ended = n.error = 0;
    Py_BEGIN_ALLOW_THREADS
    for (i = 0; is_ordinary && i <= last; i++) {
        if ((layers[i] = enter(layers[i], path)) < 0) break;
        opened++;
        is_ordinary = fstat(layers[i], &s) == 0 && s.st_dev == device && s.st_ino != avoid &&
                      (i == last || (is_plain(layers[i]) && read_above(&c, &above, layers[i])));
        ends[i + 1] = above.used;
    }
    is_ordinary = is_ordinary && opened > last;
    if (is_ordinary) clone_layers(&c, &n, &above, layers, ends, last);
    Py_END_ALLOW_THREADS
    free(c.piece);
    is_whole = n.at >= n.used && n.ended;
    told = is_ordinary ? PyList_New(0) : NULL;
    for (i = 0; told != NULL && i < last; i++) {
        if ((rest = PyList_New(0)) == NULL ||
            hand_back(&above, ends[i], ends[i + 1], NULL, rest, !is_whole) < 0 ||
            PyList_Append(told, rest) < 0)
            Py_CLEAR(told);
        Py_XDECREF(rest);
    }
    if (told != NULL)
        result = result_of(&n, Py_BuildValue("(LLLLy#N)", c.files, c.links, c.folders, c.bytes,
                                             layers, size, told));
    for (i = 0; result == NULL && i < opened; i++) close(layers[i]);
    return is_ordinary ? result : Py_NewRef(Py_None);
}

/* unlink_names(folder, left): unlink all that is no folder. The facts are how many went here. */
static PyObject *unlink_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct names n;
    struct dirent64 *entry;
    Py_buffer left = {0};
    long long removed = 0;
    int folder;
    if (!PyArg_ParseTuple(args, "iy*:unlink_names", &folder, &left)) return NULL;
    if (take_left(&n, &left) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    read_names(&n, folder);
    while ((entry = next_name(&n)) != NULL) {
        if (entry->d_type == DT_DIR)
            entry->d_type = MADE;
        else if (entry->d_type != DT_UNKNOWN) {
            int is_gone = unlinkat(folder, entry->d_name, 0) == 0;
            removed += is_gone;
            entry->d_type = is_gone || errno == ENOENT ? DONE : entry->d_type; /* by another */
        }
    }
    Py_END_ALLOW_THREADS
    return result_of(&n, PyLong_FromLongLong(removed));
}

/* Whether a file is open or mapped anywhere, which a lease tells (fcntl(2)). Should one who opens
 * it in that moment break the lease, the signal is one that is ignored. */
static int is_held(int folder, const char *name)
{
    int fd = open_file(folder, name);
    int is_had = fd >= 0 && !fcntl(fd, F_SETSIG, SIGURG) && !fcntl(fd, F_SETLEASE, F_WRLCK);
    if (fd >= 0) close(fd);
    return !is_had;
}

/* changed_names(folder, before, path, since, until, left): the names in the folder at path whose
 * inodes were not last changed in [since, until), in nanoseconds, or are like none of that name,
 * last changed before that, at path in those of before, packed; of the others the folders, and
 * those that are LINKED. With None nothing is compared, but files are told that are HELD. The
 * facts are those of before that have a folder at path, packed, and inode and ctime of it. */
static PyObject *changed_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct names n;
    struct dirent64 *entry;
    struct stat s, b, own = {0};
    Py_buffer left = {0};
    const char *path, *before;
    long long since, until;
    int layers[LAYERS], opened[LAYERS + 1], folder, i, tried, count = 0;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "iz#yLLy*:changed_names", &folder, &before, &size, &path, &since,
                          &until, &left) || take_left(&n, &left) < 0)
        return NULL;
    size = size > (Py_ssize_t)sizeof layers ? (Py_ssize_t)sizeof layers : size;
    if (before != NULL) memcpy(layers, before, (size_t)size);
    Py_BEGIN_ALLOW_THREADS
    folder = enter(folder, path);
    for (i = 0; i < (int)((size_t)size / sizeof *layers); i++)
        if ((opened[count] = enter(layers[i], path)) >= 0) layers[count++] = layers[i];
    fstat(folder, &own);
    read_names(&n, folder);
    for (i = 0; (entry = next_name(&n)) != NULL;) { /* i: the layer that had the last one */
        int is_folder = entry->d_type == DT_DIR, is_same = before == NULL;
        if (fstatat(folder, entry->d_name, &s, AT_SYMLINK_NOFOLLOW) < 0 ||
            nanoseconds(&s.st_ctim) < since || nanoseconds(&s.st_ctim) >= until)
            continue;
        b.st_nlink = 1;
        for (tried = 0; !is_same && tried < count; tried++, i = is_same ? i : (i + 1) % count)
            is_same = fstatat(opened[i], entry->d_name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
                nanoseconds(&b.st_ctim) < since && s.st_mode == b.st_mode &&
                s.st_uid == b.st_uid && s.st_gid == b.st_gid && s.st_rdev == b.st_rdev &&
                nanoseconds(&s.st_mtim) == nanoseconds(&b.st_mtim) &&
                (is_folder || s.st_size == b.st_size);
        if (!is_same || S_ISDIR(s.st_mode) != is_folder) continue;
        if (before == NULL && S_ISREG(s.st_mode) && is_held(folder, entry->d_name))
            entry->d_type = HELD;
        else
            entry->d_type = is_folder ? MADE : s.st_nlink == 1 && b.st_nlink == 1 ? DONE : LINKED;
    }
    for (i = 0, opened[count] = folder; *path && i <= count; i++) close(opened[i]);
    Py_END_ALLOW_THREADS
    return result_of(&n, Py_BuildValue("y#KL", layers, count * (Py_ssize_t)sizeof *layers,
                                       (unsigned long long)own.st_ino,
                                       (long long)nanoseconds(&own.st_ctim)));
}

#define FIEMAP_IOCTL 0xC020660BUL /* _IOWR('f', 11, struct fiemap): linux/fs.h */
#define ROOM 16                   /* extents of a file: one with more is not ordinary */
#define PLACES (64 * ROOM)        /* shared extents that a call tells of */

struct map { /* linux/fiemap.h */
    uint64_t start, length;
    uint32_t flags, count, room, reserved;
    struct { uint64_t logical, place, length, none[2]; uint32_t flags, reserved[3]; } at[ROOM];
};

struct measure {
    int folder, asks; /* asks: where the file system tells who shares */
    long long inodes, size, allocated, own, untold;
    uint64_t shared[PLACES][2];
    Py_ssize_t used;
};

static void add_inode(struct measure *m, const struct stat *s, long long own, int is_told)
{
    long long allocated = (long long)s->st_blocks * 512;
    m->inodes++;
    m->allocated += allocated;
    m->own += own;
    m->size += S_ISREG(s->st_mode) ? s->st_size : 0;
    m->untold += S_ISREG(s->st_mode) && !is_told ? allocated : 0;
}

static int measure_file(struct measure *m, const char *name)
{
    struct map map = {.length = UINT64_MAX, .flags = 1 /* SYNC */, .room = ROOM};
    struct stat s;
    Py_ssize_t used = m->used;
    int is_told, fd = open_file(m->folder, name);
    if (fd < 0) return 0;
    /* Only then: what was not written yet may have had more set aside for it. */
    is_told = syscall(SYS_ioctl, fd, FIEMAP_IOCTL, &map) == 0 && fstat(fd, &s) == 0;
    close(fd);
    if (!is_told || !S_ISREG(s.st_mode) || s.st_nlink != 1 ||
        (map.count == ROOM && !(map.at[ROOM - 1].flags & 0x1))) /* LAST */
        return 0;
    long long own = (long long)s.st_blocks * 512;
    for (uint32_t i = 0; i < map.count; i++) {
        if (map.at[i].flags & 0x200 && map.count == 1) /* INLINE: among metadata */
            own = 0;
        else if (map.at[i].flags & (0x2 | 0x8 | 0x200)) /* UNKNOWN, ENCODED */
            return 0;
        else if (map.at[i].flags & 0x2000) { /* SHARED */
            own -= (long long)map.at[i].length;
            m->shared[used][0] = map.at[i].place;
            m->shared[used++][1] = map.at[i].length;
        }
    }
    m->used = used;
    add_inode(m, &s, own > 0 ? own : 0, 1);
    return 1;
}

/* measure_names(folder, asks, left): what all of one name takes, and the folders themselves. The
 * facts are inodes, size, allocated, own, untold, and (place, length) of what is shared. */
static PyObject *measure_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct measure m = {0};
    struct names n;
    struct dirent64 *entry;
    struct stat s;
    Py_buffer left = {0};
    if (!PyArg_ParseTuple(args, "iiy*:measure_names", &m.folder, &m.asks, &left)) return NULL;
    if (take_left(&n, &left) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    read_names(&n, m.folder);
    while (m.used + ROOM <= PLACES && (entry = next_name(&n)) != NULL) {
        if (entry->d_type == DT_REG && m.asks)
            entry->d_type = measure_file(&m, entry->d_name) ? DONE : DT_REG;
        else if (fstatat(m.folder, entry->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0 &&
                 (S_ISDIR(s.st_mode) || s.st_nlink == 1) && !(S_ISREG(s.st_mode) && m.asks)) {
            add_inode(&m, &s, (long long)s.st_blocks * 512, 0);
            entry->d_type = S_ISDIR(s.st_mode) ? MADE : DONE;
        }
    }
    Py_END_ALLOW_THREADS
    return result_of(&n, Py_BuildValue("(LLLLLy#)", m.inodes, m.size, m.allocated, m.own,
                                       m.untold, m.shared, m.used * 16));
}

struct made {
    const char *name;
    Py_ssize_t at, size;    /* in the data */
    long long atime, mtime; /* nanoseconds */
    struct stat s;
};

/* Whether a block is all zeros: it has to become a hole. */
static int has_hole(const char *data, Py_ssize_t size)
{
    for (Py_ssize_t at = 0; size >= HOLE && at < size; at += HOLE) {
        Py_ssize_t rest = size - at < HOLE ? size - at : HOLE;
        if (data[at] == 0 && !memcmp(data + at, data + at + 1, (size_t)rest - 1)) return 1;
    }
    return 0;
}

/* make_files(folder, data, withheld, files): make new files in their order, up to the first that
 * cannot be made; how many. A file is (name, at, size, mode, uid, gid, atime, mtime), with -1 for
 * both ids where its birth gives the right ones. */
static PyObject *make_files(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct made files[FILES], *f = files;
    Py_buffer data = {0};
    PyObject *list;
    Py_ssize_t count, made = 0;
    mode_t withheld;
    int folder;
    if (!PyArg_ParseTuple(args, "iy*IO!:make_files", &folder, &data, &withheld, &PyTuple_Type,
                          &list))
        return NULL;
    count = PyTuple_Size(list) < FILES ? PyTuple_Size(list) : FILES;
    for (Py_ssize_t i = 0; i < count; i++, f++) {
        if (!PyArg_ParseTuple(PyTuple_GetItem(list, i), "ynnIIILL:make_files", &f->name, &f->at,
                              &f->size, &f->s.st_mode, &f->s.st_uid, &f->s.st_gid, &f->atime,
                              &f->mtime))
            goto end;
        if (f->at < 0 || f->size < 0 || f->at > data.len || f->size > data.len - f->at) {
            PyErr_SetString(PyExc_ValueError, "a file is not in the data");
            goto end;
        }
        /* Of times before 1970 futimens(2) makes an error. */
        f->s.st_atim = (struct timespec){f->atime / SECOND, f->atime % SECOND};
        f->s.st_mtim = (struct timespec){f->mtime / SECOND, f->mtime % SECOND};
    }
    Py_BEGIN_ALLOW_THREADS
    for (f = files; made < count; f++, made++) {
        const char *content = (char *)data.buf + f->at;
        int fd = has_hole(content, f->size) ? -1 : openat(folder, f->name, NEW_FILE, f->s.st_mode);
        if (fd < 0 || !finish_file(fd, folder, f->name,
                                   write_all(fd, content, (size_t)f->size, 0) < 0, &f->s,
                                   (f->s.st_uid & f->s.st_gid) != (uid_t)-1, withheld))
            break;
    }
    Py_END_ALLOW_THREADS
end:
    PyBuffer_Release(&data);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(made);
}

/* openat2(dir_fd, path, flags, mode, resolve): openat2(2), which the C library lacks. */
static PyObject *open_beneath(PyObject *Py_UNUSED(self), PyObject *args)
{
    unsigned long long how[3]; /* linux/openat2.h: struct open_how */
    const char *path;
    int dir_fd, fd;
    if (!PyArg_ParseTuple(args, "iyKKK:openat2", &dir_fd, &path, &how[0], &how[1], &how[2]))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fd = (int)syscall(SYS_openat2, dir_fd, path, how, sizeof how);
    Py_END_ALLOW_THREADS
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyMethodDef functions[] = {
    {"clone_names", clone_names, METH_VARARGS, NULL},
    {"clone_merged", clone_merged, METH_VARARGS, NULL},
    {"unlink_names", unlink_names, METH_VARARGS, NULL},
    {"changed_names", changed_names, METH_VARARGS, NULL},
    {"measure_names", measure_names, METH_VARARGS, NULL},
    {"make_files", make_files, METH_VARARGS, NULL},
    {"openat2", open_beneath, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_names", NULL, 0, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__names(void)
{
    return PyModuleDef_Init(&module);
}
