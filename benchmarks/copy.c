/* The floor of copying a tree: the calls that each entry needs, and nothing else.
 *
 *   copy SRC DST [THREADS]
 *
 * It keeps content (FICLONE, else copy_file_range), owners, modes and times, looks whether there
 * are attributes, and stops at the first error. Hard links become files; there is no undoing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CLONE 0x40049409 /* FICLONE: linux/fs.h */

struct folder {
    struct folder *next;
    int src, dst;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct folder *waiting;
static int busy, range;

static void check(int result, const char *name)
{
    if (result < 0) {
        perror(name);
        exit(1);
    }
}

static void put(int src, int dst)
{
    struct folder *f = malloc(sizeof *f);
    f->src = src;
    f->dst = dst;
    pthread_mutex_lock(&lock);
    f->next = waiting;
    waiting = f;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void copy_file(int src_dir, int dst_dir, const char *name)
{
    struct stat s;
    int src = openat(src_dir, name, O_RDONLY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC);
    check(src, name);
    check(fstat(src, &s), name);
    flistxattr(src, NULL, 0);
    int dst = openat(dst_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, s.st_mode & 0777);
    check(dst, name);
    if (s.st_size > 0 && (range || ioctl(dst, CLONE, src) < 0)) {
        range = 1;
        for (off_t left = s.st_size; left > 0;) {
            ssize_t moved = copy_file_range(src, NULL, dst, NULL, (size_t)left, 0);
            check(moved > 0 ? 0 : -1, name);
            left -= moved;
        }
    }
    lseek(src, 0, SEEK_END);
    check(fchown(dst, s.st_uid, s.st_gid), name);
    if (s.st_mode & 07000)
        check(fchmod(dst, s.st_mode & 07777), name);
    check(futimens(dst, (struct timespec[]){s.st_atim, s.st_mtim}), name);
    close(dst);
    close(src);
}

static void copy_other(int src_dir, int dst_dir, const char *name)
{
    char target[4096];
    struct stat s;
    check(fstatat(src_dir, name, &s, AT_SYMLINK_NOFOLLOW), name);
    if (S_ISLNK(s.st_mode)) {
        ssize_t size = readlinkat(src_dir, name, target, sizeof target - 1);
        check((int)size, name);
        target[size] = 0;
        check(symlinkat(target, dst_dir, name), name);
    } else
        check(mknodat(dst_dir, name, s.st_mode, s.st_rdev), name);
    check(fchownat(dst_dir, name, s.st_uid, s.st_gid, AT_SYMLINK_NOFOLLOW), name);
    check(utimensat(dst_dir, name, (struct timespec[]){s.st_atim, s.st_mtim}, AT_SYMLINK_NOFOLLOW),
          name);
}

static void copy_folder(struct folder *f)
{
    struct stat s;
    struct dirent *e;
    check(fstat(f->src, &s), "fstat");
    DIR *dir = fdopendir(f->src);
    while ((e = readdir(dir)) != NULL) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        if (e->d_type == DT_DIR) {
            check(mkdirat(f->dst, e->d_name, 0755), e->d_name);
            int src = openat(f->src, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            int dst = openat(f->dst, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            check(src, e->d_name);
            check(dst, e->d_name);
            put(src, dst);
        } else if (e->d_type == DT_REG)
            copy_file(f->src, f->dst, e->d_name);
        else
            copy_other(f->src, f->dst, e->d_name);
    }
    flistxattr(f->src, NULL, 0);
    check(fchown(f->dst, s.st_uid, s.st_gid), "fchown");
    check(fchmod(f->dst, s.st_mode & 07777), "fchmod");
    check(futimens(f->dst, (struct timespec[]){s.st_atim, s.st_mtim}), "futimens");
    closedir(dir);
    close(f->dst);
    free(f);
}

static void *work(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        struct folder *f = waiting;
        if (f == NULL && busy == 0)
            break;
        if (f == NULL) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        waiting = f->next;
        busy++;
        pthread_mutex_unlock(&lock);
        copy_folder(f);
        pthread_mutex_lock(&lock);
        if (--busy == 0)
            pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return unused;
}

int main(int argc, char **argv)
{
    int threads = argc > 3 ? atoi(argv[3]) : 1;
    pthread_t others[64];
    if (argc < 3 || threads < 1 || threads > 64) {
        fprintf(stderr, "usage: copy SRC DST [THREADS]\n");
        return 2;
    }
    umask(0);
    check(mkdir(argv[2], 0755), argv[2]);
    put(open(argv[1], O_RDONLY | O_DIRECTORY), open(argv[2], O_RDONLY | O_DIRECTORY));
    for (int i = 1; i < threads; i++)
        pthread_create(&others[i], NULL, work, NULL);
    work(NULL);
    for (int i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
    return 0;
}
