/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the placement: lines of 'expert rank' or 'layer expert rank', separated by blanks or
 * commas;
 * '#' starts a comment and a first line of names is skipped. Runs in the launching process.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement.h"

#define NOWHERE UINT16_MAX

void skew_placement_close(struct skew_placement **p)
{
    if (*p) {
        free((*p)->physical);
        free((*p)->logical);
        free(*p);
        *p = NULL;
    }
}

static unsigned parse_line(char *line, long *value)
{
    unsigned n = 0;
    line[strcspn(line, "#\r\n")] = 0;
    for (char *p = line;; n++) {
        char *end;
        p += strspn(p, " \t,");
        if (!*p)
            return n;
        long v = strtol(p, &end, 10);
        if (n == 3 || end == p || v < 0)
            return 4;
        value[n] = v;
        p = end;
    }
}

/* Sets rank_of[layers][experts] from one line; a message, or NULL when all is well. */
static const char *place(const struct skew_placement *p, uint16_t *rank_of, const long *v,
                         unsigned n)
{
    long layer = n == 3 ? v[0] : -1, expert = v[n - 2], rank = v[n - 1];
    if (layer >= (long)p->layers || expert >= (long)p->experts || rank >= (long)p->ranks)
        return "names a layer, expert or rank that this run does not have";
    unsigned first = layer < 0 ? 0 : (unsigned)layer, end = layer < 0 ? p->layers : first + 1;
    for (unsigned l = first; l < end; l++) {
        uint16_t *cell = &rank_of[(size_t)l * p->experts + (size_t)expert];
        if (*cell != NOWHERE)
            return "places an expert a second time";
        *cell = (uint16_t)rank;
    }
    return NULL;
}

static int read_file(const struct skew_placement *p, const char *path, uint16_t *rank_of,
                     char *error, size_t size)
{
    char line[256];
    long value[3];
    FILE *f = fopen(path, "r");
    if (!f) {
        snprintf(error, size, "--placement: %s: %s", path, strerror(errno));
        return -EINVAL;
    }
    for (unsigned number = 1; fgets(line, sizeof line, f); number++) {
        if (number == 1 && isalpha((unsigned char)line[0]))
            continue;
        unsigned n = parse_line(line, value);
        const char *wrong = n == 0             ? NULL
                            : n == 2 || n == 3 ? place(p, rank_of, value, n)
                                               : "is not 'expert rank' or 'layer expert rank'";
        if (wrong) {
            snprintf(error, size, "--placement: %s:%u: the line %s", path, number, wrong);
            fclose(f);
            return -EINVAL;
        }
    }
    fclose(f);
    return 0;
}

/* Numbers the experts of one layer rank by rank. */
static int number(struct skew_placement *p, unsigned layer, const uint16_t *rank_of, char *error,
                  size_t size)
{
    uint16_t *physical = p->physical + (size_t)layer * p->experts;
    uint16_t *logical = p->logical + (size_t)layer * p->experts;
    unsigned next = 0;
    for (unsigned r = 0; r < p->ranks; r++) {
        unsigned held = 0;
        for (unsigned e = 0; e < p->experts; e++) {
            if (rank_of[e] != r)
                continue;
            held++;
            if (next < p->experts) {
                physical[e] = (uint16_t)next;
                logical[next++] = (uint16_t)e;
            }
        }
        if (held != p->per_rank) {
            snprintf(error, size,
                     "--placement: rank %u gets %u experts of layer %u; every rank must hold %u", r,
                     held, layer, p->per_rank);
            return -EINVAL;
        }
    }
    return 0;
}

int skew_placement_open(struct skew_placement **out, const char *path, unsigned layers,
                        unsigned experts, unsigned ranks, char *error, size_t error_size)
{
    size_t cells = (size_t)layers * experts;
    if (experts % ranks) {
        snprintf(error, error_size, "--experts: %u experts cannot be shared evenly by %u ranks",
                 experts, ranks);
        return -EINVAL;
    }
    snprintf(error, error_size, "out of memory for the placement");
    struct skew_placement *p = calloc(1, sizeof *p);
    uint16_t *rank_of = malloc(cells * sizeof *rank_of);
    int rc = p && rank_of ? 0 : -ENOMEM;
    if (!rc) {
        *p = (struct skew_placement){layers,
                                     experts,
                                     ranks,
                                     experts / ranks,
                                     malloc(cells * sizeof(uint16_t)),
                                     malloc(cells * sizeof(uint16_t))};
        rc = p->physical && p->logical ? 0 : -ENOMEM;
    }
    for (size_t i = 0; !rc && i < cells; i++)
        rank_of[i] = path ? NOWHERE : (uint16_t)(i % experts / p->per_rank);
    if (!rc && path)
        rc = read_file(p, path, rank_of, error, error_size);
    for (unsigned l = 0; !rc && l < layers; l++)
        rc = number(p, l, rank_of + (size_t)l * experts, error, error_size);
    free(rank_of);
    if (rc)
        skew_placement_close(&p);
    else
        *out = p;
    return rc;
}
