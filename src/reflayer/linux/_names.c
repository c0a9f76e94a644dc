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
#include "names.h"

#include <signal.h>

#define HOLE 4096                /* bytes: so many zeros become one */
#define FILES 64                 /* that are made in one call at most */
#define LINKED 253               /* as d_type: the same, but its inode has several names */
#define HELD 252                 /* as d_type: a file that somebody has open */
#define LAYERS 256               /* of a stack that are looked at */

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

/* The facts of a file after all that anybody did who had it open, and whether somebody still has,
 * or has mapped it, which a lease tells (fcntl(2)). Should one who opens it in that moment break the
 * lease, the signal is one that is ignored. */
static int is_held(int folder, const char *name, struct stat *s)
{
    int fd = open_file(folder, name);
    int is_had = fd >= 0 && !fcntl(fd, F_SETSIG, SIGURG) && !fcntl(fd, F_SETLEASE, F_WRLCK) &&
        !fstat(fd, s);
    if (fd >= 0) close(fd);
    return !is_had;
}

/* changed_names(folder, before, path, since, until, left): the names in the folder at path whose
 * inodes were not last changed in [since, until), in nanoseconds, or are like none of that name,
 * last changed before that, at path in those of before, packed; of the others the folders, and
 * those that are LINKED. With None nothing is compared; since ever, files that are HELD are told. The
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
        int is_asked = since == LLONG_MIN && before == NULL, is_known = entry->d_type == DT_REG;
        int held = is_asked && is_known && is_held(folder, entry->d_name, &s);
        if ((held || !is_asked || !is_known) &&
            fstatat(folder, entry->d_name, &s, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (is_asked && entry->d_type == DT_UNKNOWN && S_ISREG(s.st_mode))
            held = is_held(folder, entry->d_name, &s);
        if (nanoseconds(&s.st_ctim) < since || nanoseconds(&s.st_ctim) >= until) continue;
        b.st_nlink = 1;
        for (tried = 0; !is_same && tried < count; tried++, i = is_same ? i : (i + 1) % count)
            is_same = fstatat(opened[i], entry->d_name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
                nanoseconds(&b.st_ctim) < since && s.st_mode == b.st_mode &&
                s.st_uid == b.st_uid && s.st_gid == b.st_gid && s.st_rdev == b.st_rdev &&
                nanoseconds(&s.st_mtim) == nanoseconds(&b.st_mtim) &&
                (is_folder || s.st_size == b.st_size);
        if (!is_same || S_ISDIR(s.st_mode) != is_folder) continue;
        if (held)
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
