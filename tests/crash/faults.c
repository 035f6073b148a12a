/* System calls that fail when told: loaded into a daemon with LD_PRELOAD.

   FAULT_UNDER   calls on files below this directory count, others do not
   FAULT_LOG     each call that counts is written there, a line each: its name
   FAULT         KIND:N, what happens at call N, counted from 1 in this process:
                   kill   the process is killed before the call
                   killed it is killed after the call
                   eio, enospc   the call fails
                   short  a write writes half; other calls are made as they are
   FAULT_DONE    a file that is made when it has happened */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, KILL, KILLED, EIO_, ENOSPC_, SHORT };

static atomic_long calls;
static const char *under, *done;
static enum kind kind;
static long at;
static int logged = -1;
static pid_t owner;

__attribute__((constructor)) static void read_settings(void)
{
    static const char *names[] = {"", "kill:", "killed:", "eio:", "enospc:", "short:"};
    const char *fault = getenv("FAULT"), *log = getenv("FAULT_LOG");
    under = getenv("FAULT_UNDER");
    done = getenv("FAULT_DONE");
    owner = getpid();
    for (int i = KILL; fault && i <= SHORT; i++)
        if (!strncmp(fault, names[i], strlen(names[i]))) {
            kind = i;
            at = atol(fault + strlen(names[i]));
        }
    if (log)
        logged = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_below(const char *path)
{
    return under && !strncmp(path, under, strlen(under));
}

static int has_file(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0)
        return 0;
    path[size] = 0;
    return is_below(path);
}

static int has_path(int directory, const char *path)
{
    return path[0] == '/' ? is_below(path) : directory != AT_FDCWD && has_file(directory);
}

/* What happens at this call; a fork of ours does not count. */
static enum kind next(const char *name)
{
    if (getpid() != owner)
        return NONE;
    long n = atomic_fetch_add(&calls, 1) + 1;
    if (logged >= 0) {
        char line[64];
        int size = snprintf(line, sizeof line, "%s\n", name);
        syscall(SYS_write, logged, line, size);
    }
    if (n != at || kind == NONE)
        return NONE;
    if (done)
        syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, done, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (kind == KILL)
        kill(owner, SIGKILL);
    return kind;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define FAULTY(name, counts, call) \
    do { \
        REAL(name); \
        if (!(counts)) \
            return real call; \
        enum kind now = next(#name); \
        if (now == EIO_ || now == ENOSPC_) { \
            errno = now == EIO_ ? EIO : ENOSPC; \
            return -1; \
        } \
        __typeof__(real call) result = real call; \
        if (now == KILLED) \
            kill(owner, SIGKILL); \
        return result; \
    } while (0)

/* As above, for what writes `size` bytes. */
#define FAULTY_WRITE(name, whole, half) \
    do { \
        REAL(name); \
        if (!has_file(fd)) \
            return real whole; \
        enum kind now = next(#name); \
        if (now == EIO_ || now == ENOSPC_) { \
            errno = now == EIO_ ? EIO : ENOSPC; \
            return -1; \
        } \
        ssize_t result = now == SHORT && size > 1 ? real half : real whole; \
        if (now == KILLED) \
            kill(owner, SIGKILL); \
        return result; \
    } while (0)

ssize_t write(int fd, const void *from, size_t size)
{
    FAULTY_WRITE(write, (fd, from, size), (fd, from, size / 2));
}

ssize_t pwrite(int fd, const void *from, size_t size, off_t place)
{
    FAULTY_WRITE(pwrite, (fd, from, size, place), (fd, from, size / 2, place));
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t place)
{
    FAULTY_WRITE(pwrite64, (fd, from, size, place), (fd, from, size / 2, place));
}

ssize_t writev(int fd, const struct iovec *parts, int size)
{
    FAULTY_WRITE(writev, (fd, parts, size), (fd, parts, size / 2));
}

int fsync(int fd) { FAULTY(fsync, has_file(fd), (fd)); }

int fdatasync(int fd) { FAULTY(fdatasync, has_file(fd), (fd)); }

int ftruncate(int fd, off_t size) { FAULTY(ftruncate, has_file(fd), (fd, size)); }

int ftruncate64(int fd, off64_t size) { FAULTY(ftruncate64, has_file(fd), (fd, size)); }

int posix_fallocate(int fd, off_t from, off_t size)
{
    REAL(posix_fallocate);
    if (has_file(fd)) {
        enum kind now = next("posix_fallocate");
        if (now == EIO_ || now == ENOSPC_)
            return now == EIO_ ? EIO : ENOSPC;
    }
    return real(fd, from, size);
}

ssize_t read(int fd, void *to, size_t size) { FAULTY(read, has_file(fd), (fd, to, size)); }

ssize_t pread64(int fd, void *to, size_t size, off64_t place)
{
    FAULTY(pread64, has_file(fd), (fd, to, size, place));
}

int rename(const char *from, const char *to)
{
    FAULTY(rename, has_path(AT_FDCWD, from), (from, to));
}

int renameat(int a, const char *from, int b, const char *to)
{
    FAULTY(renameat, has_path(a, from), (a, from, b, to));
}

int link(const char *from, const char *to) { FAULTY(link, has_path(AT_FDCWD, to), (from, to)); }

int linkat(int a, const char *from, int b, const char *to, int flags)
{
    FAULTY(linkat, has_path(b, to), (a, from, b, to, flags));
}

int unlink(const char *path) { FAULTY(unlink, has_path(AT_FDCWD, path), (path)); }

int unlinkat(int directory, const char *path, int flags)
{
    FAULTY(unlinkat, has_path(directory, path), (directory, path, flags));
}

int mkdir(const char *path, mode_t mode) { FAULTY(mkdir, has_path(AT_FDCWD, path), (path, mode)); }

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...)
{
    MODE
    FAULTY(open, has_path(AT_FDCWD, path), (path, flags, mode));
}

int open64(const char *path, int flags, ...)
{
    MODE
    FAULTY(open64, has_path(AT_FDCWD, path), (path, flags, mode));
}

int openat(int directory, const char *path, int flags, ...)
{
    MODE
    FAULTY(openat, has_path(directory, path), (directory, path, flags, mode));
}

int openat64(int directory, const char *path, int flags, ...)
{
    MODE
    FAULTY(openat64, has_path(directory, path), (directory, path, flags, mode));
}
