/* The headers of one ordinary entry of a tar, read in one call.
 *
 * Python is the definition (archive/tar_reader.py, which reads the same in some forty calls, and
 * makes the error messages). What is handed back to it: an entry whose headers are not all in the
 * chunk at hand; any type but a file, a folder, and links; numbers that are not octal; GNU's long
 * names; sparse files; and all that is wrong.
 */
#include "names.h"

#define BLOCK 512
#define MOST 65536               /* bytes of an extended header */
#define LATEST 9000000000LL      /* seconds: in nanoseconds they are below 2^63 */
#define NO_ID 0xFFFFFFFFLL       /* chown(2) */
#define DIGITS 18                /* of a decimal number, which are below 2^63 */

struct text {
    const char *at;
    Py_ssize_t size;
};

struct entry {
    struct text prefix, name, target;
    long long size, uid, gid, mtime, atime;
    PyObject *attributes; /* None, or a dictionary */
};

/* A field of octal digits among spaces, ended by NUL or its end; -1 where it is anything else. */
static long long octal(const char *field, int size)
{
    long long value = 0;
    int i = 0, start;
    while (i < size && field[i] == ' ') i++;
    for (start = i; i < size && field[i] >= '0' && field[i] <= '7'; i++)
        value = value * 8 + field[i] - '0';
    if (i == start) return -1;
    while (i < size && field[i] == ' ') i++;
    return i == size || !field[i] ? value : -1;
}

static int has_checksum(const char *block)
{
    long long total = 8 * ' ';
    for (int i = 0; i < BLOCK; i++) total += (unsigned char)block[i];
    for (int i = 148; i < 156; i++) total -= (unsigned char)block[i];
    return total == octal(block + 148, 8);
}

static struct text field_of(const char *field, size_t size)
{
    return (struct text){field, (Py_ssize_t)strnlen(field, size)};
}

/* The digits that a text begins with are taken away from it; -1 where there are none, or too many. */
static long long take_decimal(struct text *t)
{
    long long value = 0;
    int count = 0;
    for (; t->size > 0 && *t->at >= '0' && *t->at <= '9'; t->at++, t->size--, count++)
        if (count < DIGITS) value = value * 10 + *t->at - '0';
    return count == 0 || count > DIGITS ? -1 : value;
}

static long long decimal(struct text t)
{
    long long value = take_decimal(&t);
    return t.size ? -1 : value;
}

/* Decimal seconds as nanoseconds; further digits are dropped. */
static long long time_of(struct text t)
{
    long long seconds = take_decimal(&t), fraction = 0, unit = SECOND;
    if (seconds < 0 || seconds >= LATEST || (t.size && *t.at != '.')) return -1;
    for (Py_ssize_t i = 1; i < t.size; i++) {
        if (t.at[i] < '0' || t.at[i] > '9') return -1;
        unit /= 10;
        fraction += (t.at[i] - '0') * unit;
    }
    return seconds * SECOND + fraction;
}

static int is_key(struct text key, const char *wanted)
{
    size_t size = strlen(wanted);
    return (size_t)key.size == size && !memcmp(key.at, wanted, size);
}

static int begins(struct text key, const char *wanted)
{
    size_t size = strlen(wanted);
    return (size_t)key.size >= size && !memcmp(key.at, wanted, size);
}

static int add_attribute(struct entry *e, struct text name, struct text value)
{
    PyObject *key = NULL, *data = NULL;
    int is_added;
    if (!name.size || memchr(name.at, 0, (size_t)name.size) ||
        memchr(name.at, '%', (size_t)name.size))
        return 0;
    if (e->attributes == Py_None && (e->attributes = PyDict_New()) == NULL) return 0;
    is_added = (key = PyUnicode_DecodeFSDefaultAndSize(name.at, name.size)) != NULL &&
               (data = PyBytes_FromStringAndSize(value.at, value.size)) != NULL &&
               PyDict_SetItem(e->attributes, key, data) == 0;
    Py_XDECREF(key);
    Py_XDECREF(data);
    return is_added;
}

/* Take what one record says; 0 where it is not ordinary. */
static int take_record(struct entry *e, struct text key, struct text value)
{
    const char xattr[] = "SCHILY.xattr.";
    if (begins(key, xattr)) {
        Py_ssize_t head = sizeof xattr - 1;
        return add_attribute(e, (struct text){key.at + head, key.size - head}, value);
    }
    if (is_key(key, "path") || is_key(key, "linkpath")) {
        struct text *t = is_key(key, "path") ? &e->name : &e->target;
        *t = value;
        e->prefix.size = t == &e->name ? 0 : e->prefix.size;
        return value.size && !memchr(value.at, 0, (size_t)value.size);
    }
    if (is_key(key, "mtime")) return (e->mtime = time_of(value)) >= 0;
    if (is_key(key, "atime")) return (e->atime = time_of(value)) >= 0;
    if (is_key(key, "size")) return (e->size = decimal(value)) >= 0;
    if (is_key(key, "uid")) return (e->uid = decimal(value)) >= 0;
    if (is_key(key, "gid")) return (e->gid = decimal(value)) >= 0;
    return !begins(key, "GNU.sparse.") && !begins(key, "LIBARCHIVE.xattr.");
}

/* Take all records of an extended header; 0 where they are not ordinary. */
static int take_records(struct entry *e, const char *at, Py_ssize_t size)
{
    for (const char *end = at + size, *next; at < end; at = next) {
        struct text rest = {at, end - at}, key;
        long long length = take_decimal(&rest);
        const char *equals;
        if (length < 0 || length > end - at || rest.size == 0 || *rest.at != ' ') return 0;
        next = at + length;
        key.at = rest.at + 1;
        if (next - key.at < 2 || next[-1] != '\n') return 0;
        equals = memchr(key.at, '=', (size_t)(next - 1 - key.at));
        if (equals == NULL || equals == key.at) return 0;
        key.size = equals - key.at;
        if (!take_record(e, key, (struct text){equals + 1, next - equals - 2})) return 0;
    }
    return 1;
}

/* Take what the entry's own header has; 0 where that is not ordinary. Records come after. */
static int take_header(struct entry *e, const char *block)
{
    if (!has_checksum(block) || !strchr("0125", block[156]) || !block[156]) return 0;
    e->prefix = field_of(block + 345, 155);
    if (e->prefix.size && (memcmp(block + 257, "ustar", 6) || !memcmp(block + 508, "tar", 4)))
        return 0; /* GNU's and star's times are there */
    e->name = field_of(block, 100);
    e->target = field_of(block + 157, 100);
    e->uid = octal(block + 108, 8);
    e->gid = octal(block + 116, 8);
    e->size = octal(block + 124, 12);
    e->mtime = octal(block + 136, 12);
    if (e->uid < 0 || e->gid < 0 || e->size < 0 || e->mtime < 0 || e->mtime >= LATEST) return 0;
    e->mtime *= SECOND;
    return 1;
}

static PyObject *full_name(const struct entry *e)
{
    PyObject *name;
    char *at;
    if (!e->prefix.size) return PyBytes_FromStringAndSize(e->name.at, e->name.size);
    name = PyBytes_FromStringAndSize(NULL, e->prefix.size + 1 + e->name.size);
    if (name == NULL || (at = PyBytes_AsString(name)) == NULL) return name;
    memcpy(at, e->prefix.at, (size_t)e->prefix.size);
    at[e->prefix.size] = '/';
    memcpy(at + e->prefix.size + 1, e->name.at, (size_t)e->name.size);
    return name;
}

/* What tar_entry returns; NULL, with no exception, where the entry is not ordinary. */
static PyObject *entry_at(const char *data, Py_ssize_t size, Py_ssize_t at, struct entry *e)
{
    const char *records = data;
    long long length = 0, mode;
    PyObject *name;
    if (at < 0 || size - at < BLOCK) return NULL;
    if (data[at + 156] == 'x') {
        length = octal(data + at + 124, 12);
        if (!has_checksum(data + at) || length < 0 || length > MOST) return NULL;
        records = data + at + BLOCK;
        at += BLOCK + (length + BLOCK - 1) / BLOCK * BLOCK;
        if (size - at < BLOCK) return NULL;
    }
    mode = octal(data + at + 100, 8);
    if (mode < 0 || !take_header(e, data + at)) return NULL;
    e->atime = -1;
    if (!take_records(e, records, length) || e->uid >= NO_ID || e->gid >= NO_ID) return NULL;
    if (data[at + 156] != '0') e->size = 0;
    if ((name = full_name(e)) == NULL) return NULL;
    return Py_BuildValue("n(Ny#LLLLLLy#)O", at, name, data + at + 156, (Py_ssize_t)1, e->size,
                         mode & 07777, e->uid, e->gid, e->atime < 0 ? e->mtime : e->atime,
                         e->mtime, e->target.at, e->target.size, e->attributes);
}

/* tar_entry(data, at): the entry whose first header is there. The last of its headers is at the
 * number returned; then come the fields of archive.tar_header.Entry up to the target, and the
 * attributes, or None. None alone is returned for what is not ordinary. */
PyObject *tar_entry(PyObject *Py_UNUSED(self), PyObject *args)
{
    struct entry e = {.attributes = Py_None};
    Py_buffer data = {0};
    PyObject *found;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "y*n:tar_entry", &data, &at)) return NULL;
    found = entry_at(data.buf, data.len, at, &e);
    PyBuffer_Release(&data);
    if (e.attributes != Py_None) Py_XDECREF(e.attributes);
    return found || PyErr_Occurred() ? found : Py_NewRef(Py_None);
}
