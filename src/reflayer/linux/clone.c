/* The ordinary names of a folder made in another; see _names.c. */
#include "names.h"

#include <limits.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#define FICLONE_IOCTL 0x40049409 /* _IOW(0x94, 9, int): linux/fs.h */
#define LARGEST (4 << 20)        /* bytes that are moved here: what is larger takes its time */
#define PIECE (256 << 10)        /* bytes that are read at once */
#define JOINED 251               /* as d_type: part of a folder that a layer above has, too */
#define OPEN 16                  /* of a stack that are open at once in a folder */
#define ABOVE 6144               /* bytes of entries: each name is compared with each of those */

struct clone {
    int src, dst;               /* the two folders */
    int waiting;                /* where inodes with several names wait, or -1: copy/links.py */
    int method;                 /* 0 FICLONE, 1 copy_file_range, 2 read and write */
    uid_t uid;                  /* what is made in dst has these owners from its birth, */
    gid_t gid;
    mode_t withheld;            /* and never these bits of its mode */
    const uint32_t (*uids)[3], (*gids)[3]; /* first, what stands for it, how many; or none */
    Py_ssize_t uids_size, gids_size;       /* bytes */
    mode_t folder_mode;         /* what folders are made with */
    const char *leave;          /* names not to touch, each between two zeros; or NULL */
    Py_ssize_t leave_size;
    char *piece;                /* PIECE bytes, for method 2 */
    int refused;                /* the method failed for a file: the next may want another */
    long long files, again, links, folders, bytes, size; /* moved, and of the files */
};

static int is_to_leave(const struct clone *c, const char *name)
{
    char key[NAME_MAX + 3];
    if (c->leave_size == 0) return 0;
    int size = snprintf(key, sizeof key, "%c%s", 0, name);
    return size >= (int)sizeof key || memmem(c->leave, (size_t)c->leave_size, key,
                                                    (size_t)size + 1);
}

/* What stands for an id; (uid_t)-1 where nothing does, which is handed back. */
static uint32_t owner_of(const uint32_t (*ranges)[3], Py_ssize_t size, uint32_t id)
{
    for (Py_ssize_t i = 0; i < size / (Py_ssize_t)sizeof *ranges; i++)
        if (id - ranges[i][0] < ranges[i][2]) return ranges[i][1] + (id - ranges[i][0]);
    return size ? (uint32_t)-1 : id;
}

/* Let a status have the owners of what is made of it; 0 where there are none. */
static int set_owners(const struct clone *c, struct stat *s)
{
    s->st_uid = owner_of(c->uids, c->uids_size, s->st_uid);
    s->st_gid = owner_of(c->gids, c->gids_size, s->st_gid);
    return s->st_uid != (uid_t)-1 && s->st_gid != (gid_t)-1;
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

/* Whether a file is not what it was when it was begun. A write sets the ctime before the size. */
static int has_changed(const struct stat *before, const struct stat *after)
{
    return before->st_ino != after->st_ino || before->st_size != after->st_size ||
           nanoseconds(&before->st_ctim) != nanoseconds(&after->st_ctim);
}

static int has_attributes(ssize_t size)
{
    return size > 0 || (size < 0 && errno != EOPNOTSUPP);
}

/* Give the copy of an inode with several names one more, if it waits; the last ends the wait. To
 * rename it then would be less work, but of renames a file system does one at a time. */
static int link_again(struct clone *c, const char *waiting, const struct stat *s, const char *name)
{
    struct stat found;
    if (linkat(c->waiting, waiting, c->dst, name, 0) < 0) return 0;
    if (fstatat(c->waiting, waiting, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
        found.st_nlink > s->st_nlink)
        unlinkat(c->waiting, waiting, 0);
    c->again++;
    return 1;
}

/* Let the copy that was made of it wait for its other names; 0 where that of another is there. */
static int let_wait(struct clone *c, const char *waiting, const char *name)
{
    if (linkat(c->dst, name, c->waiting, waiting, 0) == 0) return 1;
    unlinkat(c->dst, name, 0);
    return 0;
}

static int clone_file(struct clone *c, const char *name)
{
    struct stat s, after;
    long long moved = 0;
    char byte, waiting[40];
    int dst, is_made = 0, src = open_file(c->src, name);
    if (src < 0) return 0;
    if (fstat(src, &s) < 0 || !S_ISREG(s.st_mode) || s.st_mode & 07000 ||
        (s.st_nlink != 1 && c->waiting < 0) ||
        (c->method != 0 && s.st_size > LARGEST) || has_attributes(flistxattr(src, NULL, 0)) ||
        (s.st_size == 0 && pread(src, &byte, 1, 0) != 0) || /* a file of proc(5) has content */
        !set_owners(c, &s))
        goto hand_back;
    if (s.st_nlink != 1) {
        snprintf(waiting, sizeof waiting, "%llx.%llx", (unsigned long long)s.st_dev,
                 (unsigned long long)s.st_ino);
        is_made = link_again(c, waiting, &s, name);
        if (is_made) goto hand_back;
    }
    dst = openat(c->dst, name, NEW_FILE, s.st_mode & 0777);
    if (dst < 0) goto hand_back;
    if (s.st_size > 0) {
        if (c->method == 0)
            moved = ioctl(dst, FICLONE_IOCTL, src) < 0 ? -1 : s.st_size;
        else
            moved = move_data(c, src, dst, s.st_size);
        c->refused = moved < 0;
    }
    is_made = finish_file(dst, c->dst, name,
                          moved < 0 || fstat(src, &after) < 0 || has_changed(&s, &after), &s,
                          s.st_uid != c->uid || s.st_gid != c->gid, c->withheld);
    if (is_made && s.st_nlink != 1 && !let_wait(c, waiting, name)) {
        is_made = link_again(c, waiting, &s, name);
        goto hand_back;
    }
    c->files += is_made;
    c->size += is_made ? s.st_size : 0;
    c->bytes += is_made ? moved : 0;
hand_back:
    close(src);
    return is_made;
}

static int clone_link(struct clone *c, const char *name)
{
    char target[PATH_MAX], path[NAME_MAX + 64];
    struct stat s, after;
    ssize_t size;
    if (fstatat(c->src, name, &s, AT_SYMLINK_NOFOLLOW) || !S_ISLNK(s.st_mode) ||
        s.st_nlink != 1 || !set_owners(c, &s))
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d/%s", c->src, name);
    if (has_attributes(llistxattr(path, NULL, 0))) /* no such call takes a folder and a name */
        return 0;
    size = readlinkat(c->src, name, target, sizeof target);
    if (size <= 0 || (size_t)size >= sizeof target ||
        fstatat(c->src, name, &after, AT_SYMLINK_NOFOLLOW) < 0 || has_changed(&s, &after))
        return 0;
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

PyObject *clone_names(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct clone c = {0};
    struct names n;
    struct dirent64 *entry;
    Py_buffer left = {0};
    PyObject *result;
    if (!PyArg_ParseTuple(args, "iiiiIIy#y#IIy#y*:clone_names", &c.src, &c.dst, &c.waiting,
                          &c.method, &c.uid, &c.gid, &c.uids, &c.uids_size, &c.gids, &c.gids_size,
                          &c.withheld, &c.folder_mode, &c.leave, &c.leave_size, &left) ||
        take_left(&n, &left) < 0)
        return NULL;
    if (c.method == 2 && (c.piece = malloc(PIECE)) == NULL) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    read_names(&n, c.src);
    while (!c.refused && (entry = next_name(&n)) != NULL)
        if (!is_to_leave(&c, entry->d_name)) clone_one(&c, entry);
    Py_END_ALLOW_THREADS
    result = result_of(&n, Py_BuildValue("(LLLLL)", c.files, c.again, c.links, c.bytes, c.size));
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

/* clone_merged(layers, path, avoid, device, dst, waiting, method, uid, gid, uids, gids, withheld,
 * folder_mode, leave): make in dst what the folder at path is in all of those layers, packed, the
 * topmost first: a name hides that of layers below, but folders are one. None, and nothing is made,
 * where not all of them are ordinary: on that device, not the inode to avoid, and above the last
 * with few names and no attributes. The facts are files, further names, links, folders, bytes, the
 * folder's descriptors, packed, and (type, name) of what each but the last has, with MADE and
 * JOINED; and DONE, if some is left. */
PyObject *clone_merged(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct clone c = {0};
    struct names n, above;
    struct stat s;
    PyObject *told, *rest, *result = NULL;
    const char *packed, *path;
    unsigned long long avoid, device;
    Py_ssize_t size, ends[OPEN + 1] = {0};
    int layers[OPEN], last, i, opened = 0, is_ordinary = 1, is_whole;
    if (!PyArg_ParseTuple(args, "y#yKKiiiIIy#y#IIy#:clone_merged", &packed, &size, &path, &avoid,
                          &device, &c.dst, &c.waiting, &c.method, &c.uid, &c.gid, &c.uids,
                          &c.uids_size, &c.gids, &c.gids_size, &c.withheld, &c.folder_mode,
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
        result = result_of(&n, Py_BuildValue("(LLLLLy#N)", c.files, c.again, c.links, c.folders,
                                             c.bytes, layers, size, told));
    for (i = 0; result == NULL && i < opened; i++) close(layers[i]);
    return is_ordinary ? result : Py_NewRef(Py_None);
}
