/* LD_PRELOAD library: SIGKILL to the process at the n-th call that changes what others see.
 *
 * Such a call creates, writes, renames, links or removes a file below KILL_BELOW, or sends a part of a request to the TCP
 * port KILL_PORT that is not a GET or HEAD. KILL_AT is n, counted from 1; 0 kills never. With KILL_AFTER the call is made first. The number of calls is
 * in the file KILL_COUNT at the end of the process.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int calls;

static int below(const char *path) {
    const char *folder = getenv("KILL_BELOW");
    return folder && path && strstr(path, folder) == path;
}

static int file_below(int fd) {
    char link[64], path[4096];
    if (!getenv("KILL_BELOW")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

static int to_server(int fd, const void *bytes, size_t n) {
    const char *port = getenv("KILL_PORT");
    if (n >= 5 && (memcmp(bytes, "GET ", 4) == 0 || memcmp(bytes, "HEAD ", 5) == 0)) return 0;
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    return port && getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.sin_family == AF_INET &&
           ntohs(peer.sin_port) == atoi(port);
}

static int fatal(void) {
    const char *at = getenv("KILL_AT");
    return at && atomic_fetch_add(&calls, 1) + 1 == atoi(at);
}

static void end(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("KILL_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) { fprintf(file, "%d", atomic_load(&calls)); fclose(file); }
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(counted, call)                                     \
    do {                                                        \
        int dies = (counted) && fatal();                        \
        if (dies && !getenv("KILL_AFTER")) end();               \
        __typeof__(call) result = (call);                       \
        if (dies) end();                                        \
        return result;                                          \
    } while (0)

int rename(const char *a, const char *b) { CALL(below(b), NEXT(rename)(a, b)); }
int renameat(int d, const char *a, int e, const char *b) { CALL(below(b), NEXT(renameat)(d, a, e, b)); }
int link(const char *a, const char *b) { CALL(below(b), NEXT(link)(a, b)); }
int linkat(int d, const char *a, int e, const char *b, int f) { CALL(below(b), NEXT(linkat)(d, a, e, b, f)); }
int unlink(const char *a) { CALL(below(a), NEXT(unlink)(a)); }
int unlinkat(int d, const char *a, int f) { CALL(below(a), NEXT(unlinkat)(d, a, f)); }
int mkdir(const char *a, mode_t m) { CALL(below(a), NEXT(mkdir)(a, m)); }
int fsync(int fd) { CALL(file_below(fd), NEXT(fsync)(fd)); }
ssize_t write(int fd, const void *b, size_t n) { CALL(file_below(fd) || to_server(fd, b, n), NEXT(write)(fd, b, n)); }
ssize_t writev(int fd, const struct iovec *v, int n) {
    CALL(file_below(fd) || to_server(fd, v->iov_base, v->iov_len), NEXT(writev)(fd, v, n));
}
ssize_t send(int fd, const void *b, size_t n, int f) { CALL(to_server(fd, b, n), NEXT(send)(fd, b, n, f)); }
ssize_t sendto(int fd, const void *b, size_t n, int f, const struct sockaddr *a, socklen_t l) {
    CALL(to_server(fd, b, n), NEXT(sendto)(fd, b, n, f, a, l));
}
ssize_t sendmsg(int fd, const struct msghdr *m, int f) {
    CALL(to_server(fd, m->msg_iov->iov_base, m->msg_iov->iov_len), NEXT(sendmsg)(fd, m, f));
}
