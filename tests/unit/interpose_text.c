/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the library that read options and put together paths, without the rest of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"
#include "layout.h"
#include "must.h"

static char told[4096];

/* Instead of diag.c: what would go to the trace. */
void skew_diag(enum skew_diag code, const char *text)
{
    MUST(code == SKEW_DIAG_BAD_OPTION);
    snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s\n", text);
}

static void text(void)
{
    char small[8];
    size_t at = skew_text_add(small, sizeof(small), 0, "abc");
    MUST(at == 3 && strcmp(small, "abc") == 0);
    at = skew_text_add(small, sizeof(small), at, "defghij");
    MUST(at == 7 && strcmp(small, "abcdefg") == 0);
    MUST(skew_text_add(small, sizeof(small), at, "x") == 7);
    at = skew_text_add_number(small, sizeof(small), 0, 255, 16, 4);
    MUST(at == 4 && strcmp(small, "00ff") == 0);
    at = skew_text_add_number(small, sizeof(small), 0, 0, 10, 1);
    MUST(at == 1 && strcmp(small, "0") == 0);
    at = skew_text_add_number(small, sizeof(small), 0, UINT64_MAX, 10, 1);
    MUST(at == 7 && strcmp(small, "1844674") == 0);
}

static void numbers(void)
{
    MUST(skew_parse_int("0") == 0 && skew_parse_int("64") == 64 && skew_parse_int("007") == 7);
    MUST(skew_parse_int("") == -1 && skew_parse_int("-1") == -1 && skew_parse_int("1x") == -1);
    MUST(skew_parse_int(" 1") == -1 && skew_parse_int("0x10") == -1);
    MUST(skew_parse_int("99999999999999999999999") == -1);
}

static void options(struct skew_process *proc)
{
    setenv("SKEWSCOPE_SPOOL_MB", "65536", 1);
    setenv("SKEWSCOPE_SEGMENT_KB", "32", 1);
    setenv("SKEWSCOPE_DLSYM", "maybe", 1);
    setenv("SKEWSCOPE_STACKS", "off", 1);
    skew_options_read(proc);
    MUST(proc->option_int[SKEW_OPT_SPOOL_MB] == 64); /* the default */
    MUST(proc->option_int[SKEW_OPT_SEGMENT_KB] == 32);
    MUST(skew_option_on(proc, SKEW_OPT_DLSYM) && !skew_option_on(proc, SKEW_OPT_STACKS));
    MUST(skew_option_on(proc, SKEW_OPT_ENABLE));
    skew_options_tell(proc);
    MUST(strstr(told,
                "SKEWSCOPE_SPOOL_MB='65536' is not one of 1..1024; the default, 64, was used"));
    MUST(strstr(told, "SKEWSCOPE_DLSYM='maybe' is not one of on|off; the default, on, was used"));
    MUST(!strstr(told, "SEGMENT"));
    /* What the constructor has kept counts where the environment no longer has it. */
    setenv("SKEWSCOPE_OUT", "from the start", 1);
    skew_options_keep();
    unsetenv("SKEWSCOPE_OUT");
    MUST(strcmp(skew_option_text(SKEW_OPT_OUT), "from the start") == 0);
    setenv("SKEWSCOPE_OUT", "", 1);
    MUST(strcmp(skew_option_text(SKEW_OPT_OUT), "") == 0);
    MUST(strcmp(skew_option_text(SKEW_OPT_NCCL), "") == 0);
}

static const char *out_of(const char *value)
{
    static char path[SKEW_PATH_BYTES];
    setenv("SKEWSCOPE_OUT", value, 1);
    MUST(skew_path_out(path, sizeof(path)) == 0);
    return path;
}

static void paths(const char *cwd)
{
    char expected[SKEW_PATH_BYTES + 300], host[256] = "", longer[SKEW_PATH_BYTES + 10],
                                          path[SKEW_PATH_BYTES];
    MUST(strcmp(skew_start_directory(), cwd) == 0);
    MUST(chdir("/") == 0);
    MUST(strcmp(out_of("/a/b"), "/a/b") == 0);
    MUST(strcmp(out_of("/a/b///"), "/a/b") == 0);
    MUST(strcmp(out_of("/"), "/") == 0);
    snprintf(expected, sizeof(expected), "%s/trace", cwd);
    MUST(strcmp(out_of("trace/"), expected) == 0);
    unsetenv("SLURM_JOB_ID");
    snprintf(expected, sizeof(expected), "%s/skewscope-trace", cwd);
    MUST(strcmp(out_of(""), expected) == 0);
    setenv("SLURM_JOB_ID", "77", 1);
    snprintf(expected, sizeof(expected), "%s/skewscope-77", cwd);
    MUST(strcmp(out_of(""), expected) == 0);
    gethostname(host, sizeof(host) - 1);
    unsetenv("RANK");
    setenv("SLURM_PROCID", "5", 1);
    snprintf(expected, sizeof(expected), "/t/%s-%d-5-%%-%%x-%%", host, (int)getpid());
    MUST(strcmp(out_of("/t/%h-%p-%r-%%-%%x-%"), expected) == 0);
    setenv("RANK", "3", 1);
    MUST(strcmp(out_of("/t/%r"), "/t/3") == 0);
    memset(longer, 'x', sizeof(longer) - 1);
    longer[0] = '/';
    longer[sizeof(longer) - 1] = '\0';
    setenv("SKEWSCOPE_OUT", longer, 1);
    MUST(skew_path_out(path, sizeof(path)) < 0);
}

static void directories(const char *top)
{
    char path[256];
    struct stat info;
    mode_t before = umask(0777);
    snprintf(path, sizeof(path), "%s/made", top);
    MUST(skew_sys_mkdir(path) == 0 && skew_sys_mkdir(path) < 0);
    umask(before);
    MUST(stat(path, &info) == 0 && (info.st_mode & 0777) == 0700);
    snprintf(path, sizeof(path), "%s/made/missing/deep", top);
    MUST(skew_sys_mkdir(path) < 0);
}

int main(void)
{
    static struct skew_process proc;
    char cwd[SKEW_PATH_BYTES], top[] = "/tmp/skewscope-unit-XXXXXX", command[64];
    MUST(getcwd(cwd, sizeof(cwd)) && mkdtemp(top));
    text();
    numbers();
    options(&proc);
    paths(cwd);
    directories(top);
    MUST(skew_hash_string("") == 0xcbf29ce484222325u &&
         skew_hash_string("a") == 0xaf63dc4c8601ec8cu);
    snprintf(command, sizeof(command), "rm -rf %s", top);
    return system(command);
}
