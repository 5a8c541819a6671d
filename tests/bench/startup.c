/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What being preloaded costs a program that never calls NCCL: from before its start to after its
 * end. In every turn it runs three times: without us, preloaded, and without us again. The cost is
 * the median of preloaded minus bare, less the median of bare minus bare of the same turns. An
 * empty library is measured in the same way: that is the loader's own share, which nobody who
 * preloads anything can save.
 *
 * usage: startup LIBRARY EMPTY TURNS PROGRAM [ARGUMENT…]      ("-" as PROGRAM: the list of the
 * project's promise)
 */
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROMISE_MS 0.1

extern char **environ;

static posix_spawn_file_actions_t silent;

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec * 1e-6;
}

/* The environment without what would change the measurement, and with `library` preloaded unless it
 * is NULL. */
static char **environment(const char *library)
{
    size_t n = 0, at = 0;
    char *preload = NULL;
    while (environ[n])
        n++;
    char **env = calloc(n + 2, sizeof(*env));
    if (!env || (library && asprintf(&preload, "LD_PRELOAD=%s", library) < 0))
        exit(1);
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0 &&
            strncmp(environ[i], "SKEWSCOPE_", 10) != 0)
            env[at++] = environ[i];
    env[at] = preload;
    return env;
}

/* Milliseconds of one run; negative when the program cannot be run. */
static double run(char **argv, char **env)
{
    pid_t pid;
    int status;
    double start = now_ms();
    if (posix_spawnp(&pid, argv[0], &silent, NULL, argv, env) != 0 ||
        waitpid(pid, &status, 0) != pid || status != 0)
        return -1;
    return now_ms() - start;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Half the width of a 95 % interval of the median, by its order statistics; the values are sorted.
 */
static double spread(const double *values, size_t n)
{
    size_t off = (size_t)(0.98 * sqrt((double)n)) + 1;
    size_t low = n / 2 > off ? n / 2 - off : 0, high = n / 2 + off < n ? n / 2 + off : n - 1;
    return (values[high] - values[low]) / 2;
}

static int measure(const char *library, const char *empty, size_t turns, char **argv)
{
    char **bare = environment(NULL), **ours = environment(library), **least = environment(empty);
    double *added = calloc(turns, sizeof(double)), *floor = calloc(turns, sizeof(double)),
           *nothing = calloc(turns, sizeof(double));
    if (!added || !floor || !nothing)
        return 1;
    for (size_t i = 0; i < turns; i++) {
        double before = run(argv, bare), with = run(argv, ours), loader = run(argv, least),
               after = run(argv, bare);
        if (before < 0 || with < 0 || loader < 0 || after < 0) {
            printf("  %-34s cannot be run here\n", argv[0]);
            return 0;
        }
        added[i] = with - before;
        floor[i] = loader - before;
        nothing[i] = after - before;
    }
    double zero = median(nothing, turns), ms = median(added, turns) - zero,
           least_ms = median(floor, turns) - zero,
           around = spread(added, turns) + spread(nothing, turns);
    char text[128] = "";
    for (char **word = argv; *word; word++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", word == argv ? "" : " ",
                 *word);
    printf("  %-26s %7.4f ms ± %.4f   (an empty library %.4f; bare against bare %+.4f; %zu turns)  "
           " %s\n",
           text, ms, around, least_ms, zero, turns,
           ms + around < PROMISE_MS   ? "met"
           : ms - around > PROMISE_MS ? "not met"
                                      : "too noisy to tell");
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    static char *list[][5] = {{"/bin/true"},
                              {"bash", "-c", ":"},
                              {"/usr/bin/python3", "-c", "pass"},
                              {"node", "-e", "0"},
                              {"gcc", "--version"}};
    static const size_t share[] = {1, 1, 2, 4, 1}; /* slower ones run less often */
    if (argc < 5) {
        fprintf(stderr, "usage: startup LIBRARY EMPTY TURNS PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    size_t turns = strtoull(argv[3], NULL, 10);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((unsigned)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof(one),
                      &one); /* moving between cores costs more than what is measured */
    posix_spawn_file_actions_init(&silent);
    posix_spawn_file_actions_addopen(&silent, 1, "/dev/null", O_WRONLY, 0);
    printf("added to start and end of a program, paired medians, promise: under %.1f ms\n",
           PROMISE_MS);
    if (strcmp(argv[4], "-") != 0)
        return measure(argv[1], argv[2], turns, argv + 4);
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        if (measure(argv[1], argv[2], turns / share[i], list[i]))
            return 1;
    return 0;
}
