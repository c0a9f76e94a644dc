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
#define LINKED 253               /* as d_type: not changed, but its inode has several names */
#define HELD 252                 /* as d_type: a file of one name that somebody has open */
#define FOLDERS 64               /* that are looked at in one call at most */

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

/* Whether nobody else has an open file open, or has mapped it, which a lease tells (fcntl(2)). Should
 * one who opens it in that moment break the lease, the signal is one that is ignored. */
static int has_lease(int fd)
{
    return !fcntl(fd, F_SETSIG, SIGURG) && !fcntl(fd, F_SETLEASE, F_WRLCK);
}

/* The facts of a file after all that anybody did who had it open, and whether somebody still has. */
static int is_held(int folder, const char *name, struct stat *s)
{
    int fd = open_file(folder, name);
    int is_had = fd >= 0 && has_lease(fd) && !fstat(fd, s);
    if (fd >= 0) close(fd);
    return !is_had;
}

struct looked { /* at one folder */
    Py_ssize_t end; /* of its entries */
    unsigned long long inode;
    long long ctime;
    int error;
};

static PyObject *told_of(const struct names *n, Py_ssize_t at, const struct looked *one)
{
    if (one->error) return PyLong_FromLong(one->error);
    PyObject *folders = PyList_New(0), *rest = PyList_New(0);
    if (folders && rest && hand_back(n, at, one->end, folders, rest, 0) == 0)
        return Py_BuildValue("KLNN", one->inode, one->ctime, folders, rest);
    Py_XDECREF(folders);
    Py_XDECREF(rest);
    return NULL;
}

/* Look at an entry; it is DONE if it was not changed, and there is no more to tell. */
static void look_at(struct dirent64 *entry, int folder, long long until, int asks)
{
    struct stat s;
    int is_file = entry->d_type == DT_REG;
    int held = asks && is_file && is_held(folder, entry->d_name, &s);
    if ((held || !asks || !is_file) && fstatat(folder, entry->d_name, &s, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    if (entry->d_type == DT_UNKNOWN && S_ISDIR(s.st_mode)) {
        entry->d_type = MADE;
        return;
    }
    if (asks && entry->d_type == DT_UNKNOWN && S_ISREG(s.st_mode))
        held = is_held(folder, entry->d_name, &s);
    if (nanoseconds(&s.st_ctim) < until) /* LINKED: it may be us who have it open by another name */
        entry->d_type = s.st_nlink > 1 ? LINKED : held ? HELD : DONE;
}

/* changed_names(folder, paths, until, asks, left): what is in the folders at paths, one after the
 * other. A list tells of each its inode and ctime, the folders in it, and what else has a ctime of
 * until or later, in nanoseconds; of the other names those that are LINKED or, if it asks, HELD.
 * Of one that cannot be read it has the error. It may be short; what is left is of its last. */
static PyObject *changed_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct names n;
    struct looked looked[FOLDERS];
    struct dirent64 *entry;
    struct stat s = {0};
    Py_buffer left = {0};
    PyObject *paths, *told, *one;
    const char *path[FOLDERS];
    long long until;
    int folder, asks, fd, count, is_large, done = 0;
    if (!PyArg_ParseTuple(args, "iO!Lpy*:changed_names", &folder, &PyTuple_Type, &paths, &until,
                          &asks, &left) || take_left(&n, &left) < 0)
        return NULL;
    count = (int)(PyTuple_Size(paths) < FOLDERS ? PyTuple_Size(paths) : FOLDERS);
    for (int i = 0; i < count; i++)
        if ((path[i] = PyBytes_AsString(PyTuple_GetItem(paths, i))) == NULL) return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (n.stop = now() + TURN; done < count && (done == 0 || now() <= n.stop); done++) {
        struct looked *this = &looked[done];
        fd = enter(folder, path[done]);
        if (fd < 0 || fstat(fd, &s) < 0)
            n.error = errno;
        else if (n.at == n.used)
            add_names(&n, fd);
        is_large = done > 0 && !n.ended && !n.error; /* it is to have a call of its own */
        if (is_large || n.error) n.used = n.at;
        if (is_large || n.error) n.ended = 1;
        while ((entry = next_name(&n)) != NULL)
            if (entry->d_type == DT_DIR)
                entry->d_type = MADE;
            else
                look_at(entry, fd, until, asks);
        *this = (struct looked){n.at, s.st_ino, nanoseconds(&s.st_ctim), n.error};
        n.error = 0;
        if (fd >= 0 && *path[done]) close(fd);
        if (is_large) break;
        if (n.at < n.used || !n.ended) count = done + 1;
    }
    Py_END_ALLOW_THREADS
    told = PyList_New(0);
    for (int i = 0; told != NULL && i < done; i++) {
        one = told_of(&n, i ? looked[i - 1].end : 0, &looked[i]);
        if (one == NULL || PyList_Append(told, one) < 0) Py_CLEAR(told);
        Py_XDECREF(one);
    }
    return told == NULL ? NULL
        : n.at >= n.used && n.ended
        ? Py_BuildValue("NO", told, Py_None)
        : Py_BuildValue("Ny#", told, n.data + n.at, n.used - n.at);
}

/* write_back_names(folder, left): begin to write out all files, and wait for it where others have one
 * open, or have mapped it: who stores into it from then on changes its ctime by that. */
static PyObject *write_back_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct names n;
    struct dirent64 *entry;
    Py_buffer left = {0};
    int folder, fd, is_begun;
    if (!PyArg_ParseTuple(args, "iy*:write_back_names", &folder, &left)) return NULL;
    if (take_left(&n, &left) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    read_names(&n, folder);
    while ((entry = next_name(&n)) != NULL) {
        if (entry->d_type != DT_REG || (fd = open_file(folder, entry->d_name)) < 0) continue;
        is_begun = has_lease(fd) ? !fcntl(fd, F_SETLEASE, F_UNLCK) &&
                                       !sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE)
                                 : !fdatasync(fd);
        entry->d_type = is_begun ? DONE : DT_REG;
        close(fd);
    }
    Py_END_ALLOW_THREADS
    return result_of(&n, Py_NewRef(Py_None));
}

#define FIEMAP_IOCTL 0xC020660BUL /* _IOWR('f', 11, struct fiemap): linux/fs.h */
#define ROOM 16                   /* extents of a file: one with more is not ordinary */
#define PLACES (64 * ROOM)        /* shared extents that a call tells of */
#define ONE_AT_A_TIME 2           /* as asks */
#define WAIT 4000                 /* nanoseconds: about as long as the lookup of two extents */

struct map { /* linux/fiemap.h */
    uint64_t start, length;
    uint32_t flags, count, room, reserved;
    struct { uint64_t logical, place, length, none[2]; uint32_t flags, reserved[3]; } at[ROOM];
};

struct measure {
    int folder, asks; /* asks: where the file system tells who shares */
    long long inodes, size, allocated, own, untold;
    uint64_t (*shared)[2]; /* PLACES */
    Py_ssize_t used;
};

/* XFS looks who shares an extent under a lock of its allocation group, and one who waits for that
 * sleeps, and is woken, for far longer than it is held. So there one asks at a time, and the others
 * wait awake; but not for one who has lost its processor, or whose file has to be written first. */
static int ask(const struct measure *m, int fd, struct map *map)
{
    static char is_asking;
    int64_t until = m->asks == ONE_AT_A_TIME ? now() + WAIT : 0;
    int is_mine, result;
    while (!(is_mine = until && !__atomic_test_and_set(&is_asking, __ATOMIC_ACQUIRE)) &&
           now() < until) {}
    result = (int)syscall(SYS_ioctl, fd, FIEMAP_IOCTL, map);
    if (is_mine) __atomic_clear(&is_asking, __ATOMIC_RELEASE);
    return result;
}

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
    is_told = ask(m, fd, &map) == 0 && fstat(fd, &s) == 0;
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

/* Measure what is in a folder, as far as there is time and room. */
static void measure_each(struct measure *m, struct names *n)
{
    struct dirent64 *entry;
    struct stat s;
    while (m->used + ROOM <= PLACES && (entry = next_name(n)) != NULL) {
        if (entry->d_type == DT_REG && m->asks)
            entry->d_type = measure_file(m, entry->d_name) ? DONE : DT_REG;
        else if (fstatat(m->folder, entry->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0 &&
                 (S_ISDIR(s.st_mode) || s.st_nlink == 1) && !(S_ISREG(s.st_mode) && m->asks)) {
            add_inode(m, &s, (long long)s.st_blocks * 512, 0);
            entry->d_type = S_ISDIR(s.st_mode) ? MADE : DONE;
        }
    }
}

static PyObject *sums_of(const struct measure *m)
{
    return Py_BuildValue("(LLLLLy#)", m->inodes, m->size, m->allocated, m->own, m->untold,
                         m->shared, m->used * 16);
}

/* measure_names(folder, asks, left): what all of one name takes, and the folders themselves. The
 * facts are inodes, size, allocated, own, untold, and (place, length) of what is shared. */
static PyObject *measure_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    uint64_t shared[PLACES][2];
    struct measure m = {.shared = shared};
    struct names n;
    Py_buffer left = {0};
    if (!PyArg_ParseTuple(args, "iiy*:measure_names", &m.folder, &m.asks, &left)) return NULL;
    if (take_left(&n, &left) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    read_names(&n, m.folder);
    measure_each(&m, &n);
    Py_END_ALLOW_THREADS
    return result_of(&n, sums_of(&m));
}

/* measure_folders(folder, paths, asks): the same of the folders at paths, one after the other. The
 * facts are of all together, and a list tells of each the folders in it and what is handed back. It
 * ends before the first that takes several calls, or cannot be opened. */
static PyObject *measure_folders(PyObject *Py_UNUSED(self), PyObject *args)
{
    uint64_t shared[PLACES][2];
    struct measure m = {.shared = shared}, before;
    struct names n = {.used = 0};
    Py_ssize_t end[FOLDERS];
    PyObject *paths, *told = NULL, *one;
    const char *path[FOLDERS];
    int top, count, done = 0;
    if (!PyArg_ParseTuple(args, "iO!i:measure_folders", &top, &PyTuple_Type, &paths, &m.asks))
        return NULL;
    count = (int)(PyTuple_Size(paths) < FOLDERS ? PyTuple_Size(paths) : FOLDERS);
    for (int i = 0; i < count; i++)
        if ((path[i] = PyBytes_AsString(PyTuple_GetItem(paths, i))) == NULL) return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (n.stop = now() + TURN; done < count; end[done++] = n.at) {
        before = m;
        m.folder = enter(top, path[done]);
        if (m.folder < 0) break;
        add_names(&n, m.folder);
        if (n.ended) measure_each(&m, &n);
        if (*path[done]) close(m.folder);
        if (!n.ended || n.at < n.used) {
            m = before;
            break;
        }
    }
    Py_END_ALLOW_THREADS
    told = PyList_New(0);
    for (int i = 0; told != NULL && i < done; i++) {
        PyObject *folders = PyList_New(0), *rest = PyList_New(0);
        one = folders && rest && !hand_back(&n, i ? end[i - 1] : 0, end[i], folders, rest, 0)
                  ? PyTuple_Pack(2, folders, rest) : NULL;
        if (one == NULL || PyList_Append(told, one) < 0) Py_CLEAR(told);
        Py_XDECREF(one);
        Py_XDECREF(folders);
        Py_XDECREF(rest);
    }
    return told == NULL ? NULL : Py_BuildValue("NN", sums_of(&m), told);
}

struct made {
    int folder;
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

/* make_files(data, withheld, files, first): make new files in their order from that number on, up to
 * the first that cannot be made; how many. A file is (folder, name, at, size, mode, uid, gid, atime,
 * mtime), with -1 for both ids where its birth gives the right ones. */
static PyObject *make_files(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct made files[FILES], *f = files;
    Py_buffer data = {0};
    PyObject *list;
    Py_ssize_t first, count, made = 0;
    mode_t withheld;
    if (!PyArg_ParseTuple(args, "y*IO!n:make_files", &data, &withheld, &PyTuple_Type, &list,
                          &first))
        return NULL;
    count = first < 0 ? 0 : PyTuple_Size(list) - first;
    count = count < FILES ? count : FILES;
    for (Py_ssize_t i = 0; i < count; i++, f++) {
        if (!PyArg_ParseTuple(PyTuple_GetItem(list, first + i), "iynnIIILL:make_files", &f->folder,
                              &f->name, &f->at, &f->size, &f->s.st_mode, &f->s.st_uid,
                              &f->s.st_gid, &f->atime, &f->mtime))
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
        int fd = has_hole(content, f->size) ? -1
                                            : openat(f->folder, f->name, NEW_FILE, f->s.st_mode);
        if (fd < 0 || !finish_file(fd, f->folder, f->name,
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
    {"write_back_names", write_back_names, METH_VARARGS, NULL},
    {"measure_names", measure_names, METH_VARARGS, NULL},
    {"measure_folders", measure_folders, METH_VARARGS, NULL},
    {"make_files", make_files, METH_VARARGS, NULL},
    {"tar_entry", tar_entry, METH_VARARGS, NULL},
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
