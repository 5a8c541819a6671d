/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be told before a command runs: see doctor.h.
 */
#include "doctor.h"
#include "collect/node.h"
#include "elf_file.h"
#include "packages.h"
#include "paths.h"
#include "run_watch.h"
#include "term.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#include "layout.h"

void skew_doctor_add(struct skew_doctor *doctor, enum skew_verdict level, const char *code,
                     const char *advice, const char *format, ...)
{
    static const char *const levels[] = {"OK", "WARN", "FAIL"};
    json_t *check = json_object();
    char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    json_object_set_new(check, "level", json_string(levels[level]));
    json_object_set_new(check, "code", json_string(code));
    if (text)
        skew_term_clean(text);
    json_t *value = text ? json_string(text) : NULL;
    json_object_set_new(check, "text", value ? value : json_string("?"));
    json_object_set_new(check, "advice", advice ? json_string(advice) : json_null());
    json_array_append_new(doctor->checks, check);
    doctor->failed |= level == SKEW_FAIL;
    free(text);
}

/* ---- asking the loader --------------------------------------------------------------------- */

/*
 * Runs a program with the library preloaded and returns what it wrote to both of its outputs; NULL
 * when that failed. Only for programs that are known to do nothing else. Caller frees.
 */
static char *ask(const char *library, char *const arguments[], int *status)
{
    int fds[2];
    size_t used = 0, room = 1 << 16;
    char *text = malloc(room);

    if (!text || pipe2(fds, O_CLOEXEC) != 0) {
        free(text);
        return NULL;
    }
    pid_t child = fork();
    if (child == 0) {
        dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        setenv("LD_PRELOAD", library, 1);
        execv(arguments[0], arguments);
        _exit(127);
    }
    close(fds[1]);
    for (ssize_t got; child > 0 && used < room - 1; used += (size_t)got)
        if ((got = read(fds[0], text + used, room - 1 - used)) <= 0)
            break;
    close(fds[0]);
    text[used] = '\0';
    while (child > 0 && waitpid(child, status, 0) < 0 && errno == EINTR)
        ;
    return text;
}

static void check_library(struct skew_doctor *doctor)
{
    char *arguments[] = {(char *)"/bin/true", NULL};
    int status = 0;

    if (skew_path_library(&doctor->library) < 0) {
        skew_doctor_add(doctor, SKEW_FAIL, "library",
                        "build or install skewscope completely, or set "
                        "SKEWSCOPE_LIB",
                        "libskewscope.so was not found, or cannot be used where it is");
        return;
    }
    char *said = ask(doctor->library, arguments, &status);
    if (said && *said)
        skew_doctor_add(doctor, SKEW_FAIL, "library", "rebuild skewscope on this machine",
                        "the loader does not take %s: %.300s", doctor->library, said);
    else
        skew_doctor_add(doctor, SKEW_OK, "library", NULL, "%s loads", doctor->library);
    free(said);
}

/* ---- the machine --------------------------------------------------------------------------- */

/* The first place where the library would put its spool. */
static void check_spool(struct skew_doctor *doctor)
{
    const char *named = skew_setting(doctor->settings, SKEW_OPT_SPOOL);
    const char *roots[] = {named, SKEW_SHM_ROOT, getenv("TMPDIR"), "/tmp"};
    int64_t cap = strtoll(skew_setting(doctor->settings, SKEW_OPT_SPOOL_MB), NULL, 10) << 20;
    char free_text[SKEW_BYTES_TEXT], cap_text[SKEW_BYTES_TEXT];

    if (*named && (access(named, W_OK | X_OK) != 0 || !skew_is_local(named)))
        skew_doctor_add(doctor, SKEW_WARN, "spool", "name a local directory that you may write to",
                        "%s (SKEWSCOPE_SPOOL) cannot be used: %s", named,
                        access(named, W_OK | X_OK) != 0 ? strerror(errno)
                                                        : "not a local file system");
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        struct statvfs fs;
        if (!roots[i] || roots[i][0] != '/' || access(roots[i], W_OK | X_OK) != 0 ||
            !skew_is_local(roots[i]) || statvfs(roots[i], &fs) != 0)
            continue;
        uint64_t quarter = (uint64_t)fs.f_bavail * fs.f_frsize / 4;
        skew_bytes_text(free_text, quarter * 4);
        skew_bytes_text(cap_text, (uint64_t)cap);
        if (quarter < 8u << 20)
            skew_doctor_add(
                doctor, SKEW_WARN, "spool",
                "give the container more (docker run --shm-size=1g) or name another place "
                "with --spool",
                "the spool goes to %s, which has only %s free, of which a quarter may be used: "
                "bursts would be lost (and counted)",
                roots[i], free_text);
        else
            skew_doctor_add(
                doctor, SKEW_OK, "spool", NULL,
                "the spool goes to %s, %s free; up to %s a process, at most a quarter of what "
                "is free",
                roots[i], free_text, cap_text);
        return;
    }
    skew_doctor_add(doctor, SKEW_WARN, "spool",
                    "make /dev/shm or /tmp writable, or name a local directory "
                    "with --spool",
                    "no local directory for the spool: it would lie in the output directory, "
                    "which must then be local");
}

static void check_limits(struct skew_doctor *doctor)
{
    struct rlimit files, size;
    char text[SKEW_BYTES_TEXT];
    bool fine = true;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < 1024) {
        fine = false;
        skew_doctor_add(doctor, SKEW_WARN, "limits", "ulimit -n 4096",
                        "only %" PRIu64
                        " open files are allowed; when the job uses them up, the spool "
                        "cannot grow",
                        (uint64_t)files.rlim_cur);
    }
    if (getrlimit(RLIMIT_FSIZE, &size) == 0 && size.rlim_cur != RLIM_INFINITY) {
        fine = false;
        skew_doctor_add(doctor, SKEW_WARN, "limits", "ulimit -f unlimited",
                        "files may not grow beyond %s: neither may spool and trace",
                        skew_bytes_text(text, size.rlim_cur));
    }
    if (fine)
        skew_doctor_add(doctor, SKEW_OK, "limits", NULL,
                        "open files and file sizes are not limited tightly");
}

static void check_named_nccl(struct skew_doctor *doctor, const char *variable)
{
    const char *path = getenv(variable), *real = skew_setting(doctor->settings, SKEW_OPT_NCCL);

    if (!path || !*path)
        return;
    if (!strstr(path, "libskewscope"))
        skew_doctor_add(doctor, SKEW_OK, "variables", NULL,
                        "%s=%s: calls through it are seen by answering dlsym()", variable, path);
    else if (*real)
        skew_doctor_add(doctor, SKEW_OK, "variables", NULL,
                        "%s names skewscope, and SKEWSCOPE_NCCL the real "
                        "NCCL: %s",
                        variable, real);
    else
        skew_doctor_add(
            doctor, SKEW_WARN, "variables",
            "set SKEWSCOPE_NCCL to the path of the real libnccl.so.2",
            "%s names skewscope, but SKEWSCOPE_NCCL does not say where the real NCCL is: the "
            "loader's own search decides",
            variable);
}

static void check_variables(struct skew_doctor *doctor)
{
    const char *preload = getenv("LD_PRELOAD"), *audit = getenv("LD_AUDIT");
    const char *connections = getenv("CUDA_DEVICE_MAX_CONNECTIONS");

    if (!skew_setting_on(doctor->settings, SKEW_OPT_ENABLE))
        skew_doctor_add(doctor, SKEW_WARN, "variables", "unset SKEWSCOPE_ENABLE",
                        "recording is switched off");
    if (!skew_setting_on(doctor->settings, SKEW_OPT_DLSYM))
        skew_doctor_add(doctor, SKEW_WARN, "variables", "set SKEWSCOPE_DLSYM=on",
                        "dlsym() is not answered: vLLM, SGLang and JAX will not be seen");
    if (preload && *preload && !strstr(preload, "libskewscope"))
        skew_doctor_add(doctor, SKEW_OK, "variables", NULL,
                        "LD_PRELOAD has %s already; skewscope comes after it", preload);
    if (audit && *audit)
        skew_doctor_add(doctor, SKEW_WARN, "variables", "unset LD_AUDIT for traced runs",
                        "LD_AUDIT=%s changes how symbols are bound", audit);
    if (connections && strcmp(connections, "1") == 0)
        skew_doctor_add(
            doctor, SKEW_OK, "variables", NULL,
            "CUDA_DEVICE_MAX_CONNECTIONS=1: kernels of different "
            "streams queue in order of launch, so nothing is ever added to the job's streams");
    check_named_nccl(doctor, "VLLM_NCCL_SO_PATH");
    check_named_nccl(doctor, "SGLANG_NCCL_SO_PATH");
}

static void take_package(void *user, const char *name, const char *version, const char *path)
{
    struct skew_doctor *doctor = user;

    if (strcmp(name, "libnccl") == 0 || strcmp(name, "librccl") == 0)
        skew_doctor_add(doctor, SKEW_OK, "nccl_here", NULL, "%s %s is installed: %s", name + 3,
                        version ? version : "(version unknown)", path);
}

void skew_doctor_machine(struct skew_doctor *doctor)
{
    check_library(doctor);
    check_spool(doctor);
    check_limits(doctor);
    check_variables(doctor);
    skew_packages_find(take_package, doctor);
}

/* ---- the command's file -------------------------------------------------------------------- */

static bool find_in_path(const char *command, char *found)
{
    char *path = getenv("PATH") ? strdup(getenv("PATH")) : NULL, *rest = path, *one;
    bool there = false;

    if (strchr(command, '/')) {
        free(path);
        return snprintf(found, PATH_MAX, "%s", command) < PATH_MAX && access(command, X_OK) == 0;
    }
    while (!there && path && (one = strsep(&rest, ":")))
        there = snprintf(found, PATH_MAX, "%s/%s", *one ? one : ".", command) < PATH_MAX &&
                access(found, X_OK) == 0;
    free(path);
    return there;
}

/* The program that the kernel starts for a script: its interpreter, and the one after `env`. */
static bool interpreter(const char *line, char *program)
{
    char copy[256], *rest = copy, *one;

    snprintf(copy, sizeof copy, "%s", line);
    one = strsep(&rest, " \t");
    if (!one || !*one)
        return false;
    size_t length = strlen(one);
    if (rest && length >= 4 && strcmp(one + length - 4, "/env") == 0) {
        while ((one = strsep(&rest, " \t")) && (*one == '-' || strchr(one, '=')))
            ;
        return one && *one && find_in_path(one, program);
    }
    return find_in_path(one, program);
}

/* What `ld.so --list` says: nothing of the program runs. */
static void check_loader(struct skew_doctor *doctor, const char *program,
                         const struct skew_elf *elf)
{
    char *arguments[] = {(char *)elf->interp, (char *)"--list", (char *)program, NULL};
    int status = 0;

    if (!doctor->library || !strstr(elf->interp, "ld-linux"))
        return;
    char *said = ask(doctor->library, arguments, &status);
    char *missing = said ? strstr(said, "=> not found") : NULL;
    char *nccl = said ? strstr(said, "libnccl.so") : NULL;
    if (!said || !strstr(said, doctor->library))
        skew_doctor_add(doctor, SKEW_FAIL, "binds", "LD_DEBUG=libs shows what the loader did",
                        "the loader does not put libskewscope.so into %s", program);
    else
        skew_doctor_add(doctor, SKEW_OK, "binds", NULL, "the loader puts libskewscope.so into %s",
                        program);
    if (missing) {
        *missing = '\0';
        char *line = strrchr(said, '\n');
        skew_doctor_add(doctor, SKEW_WARN, "missing_library", "set LD_LIBRARY_PATH",
                        "%s needs a library that is not found: %s", program,
                        line ? line + 2 : said);
    } else if (nccl) {
        nccl[strcspn(nccl, "\n")] = '\0';
        char *address = strstr(nccl, " (0x");
        if (address)
            *address = '\0';
        skew_doctor_add(doctor, SKEW_OK, "links_nccl", NULL, "it is linked against NCCL: %s", nccl);
    }
    free(said);
}

void skew_doctor_file(struct skew_doctor *doctor, const char *command)
{
    char program[PATH_MAX], interpreted[PATH_MAX];
    struct skew_elf elf;

    if (!find_in_path(command, program)) {
        skew_doctor_add(doctor, SKEW_FAIL, "command", "give its path", "%s: command not found",
                        command);
        return;
    }
    if (skew_elf_read(&elf, program) == 0 && !elf.elf && *elf.script &&
        interpreter(elf.script, interpreted)) {
        skew_doctor_add(doctor, SKEW_OK, "command", NULL, "%s is a script of %s", program,
                        interpreted);
        strcpy(program, interpreted);
        if (skew_elf_read(&elf, program) < 0)
            elf.elf = false;
    }
    if (!elf.elf) {
        skew_doctor_add(doctor, SKEW_WARN, "command", "run doctor on the program that it starts",
                        "%s is neither an ELF program nor a script that says its interpreter",
                        program);
        return;
    }
    enum skew_unbound why =
        doctor->library ? skew_unbound_by_file(program, doctor->library) : SKEW_BOUND;
    if (why != SKEW_BOUND)
        skew_doctor_add(doctor, SKEW_FAIL, "binds", NULL, "libskewscope.so cannot get into %s: %s",
                        program, skew_unbound_text(why));
    else
        check_loader(doctor, program, &elf);
    if (skew_elf_static_nccl(program, &elf, NULL))
        skew_doctor_add(doctor, SKEW_FAIL, "static_nccl", "link it against the shared libnccl.so.2",
                        "NCCL is linked statically into %s: its calls cannot be intercepted",
                        program);
}
