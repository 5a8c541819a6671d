/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heat map of `skewscope matrix`. Three ways to draw a cell, the first that fits the terminal:
 * its number on a background, a shade two characters wide, a shade one character wide. More than 64
 * ranks, or fewer where even that is too wide, are folded into blocks of ranks.
 */
#include "heatmap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROWS 64

static const uint8_t palette[] = {233, 17, 18, 19, 54, 90, 126, 162, 197, 202, 208, 214, 220, 228};
static const char ramp[] = " .:-=+*#%@";

#define SHADES (sizeof palette / sizeof *palette)

struct drawing {
    const struct skew_heatmap *map;
    uint32_t n;    /* rows and columns drawn */
    uint32_t fold; /* ranks in each */
    double *cells; /* [n][n] */
    double *rows, *cols;
    double max;
    double least; /* above zero */
    int cell_width;
    int head_width; /* of the row labels */
    int total_width;
    bool numbers;
};

static int number_width(const struct skew_heatmap *map, double value)
{
    char text[64];
    if (map->whole || value >= 1000)
        return snprintf(text, sizeof text, "%.0f", value);
    return snprintf(text, sizeof text, "%.1f", value);
}

static void print_number(FILE *to, const struct skew_heatmap *map, double value, int width)
{
    if (isnan(value))
        fprintf(to, "%*s", width, "?");
    else
        fprintf(to, "%*.*f", width, map->whole || value >= 1000 || value == 0 ? 0 : 1, value);
}

/* 0 for nothing, else 1 … shades − 1. */
static size_t shade(const struct drawing *d, double value, size_t shades)
{
    double part;

    if (value <= 0 || d->max <= 0)
        return 0;
    if (!d->map->logarithmic)
        part = value / d->max;
    else
        part = d->max > d->least ? log(value / d->least) / log(d->max / d->least) : 1;
    size_t at = 1 + (size_t)(part * (double)(shades - 1));
    return at < shades ? at : shades - 1;
}

static bool prepare(struct drawing *d, uint32_t most)
{
    const struct skew_heatmap *map = d->map;
    bool known[MOST_ROWS] = {false}; /* rows: a rank's sends are known all or none */

    d->fold = (map->ranks + most - 1) / most;
    d->n = (map->ranks + d->fold - 1) / d->fold;
    d->cells = calloc((size_t)d->n * d->n + 2 * (size_t)d->n, sizeof *d->cells);
    if (!d->cells)
        return false;
    d->rows = d->cells + (size_t)d->n * d->n;
    d->cols = d->rows + d->n;
    for (uint32_t i = 0; i < map->ranks; i++) {
        for (uint32_t j = 0; j < map->ranks; j++) {
            double value = map->cells[(size_t)i * map->ranks + j];
            if (isnan(value))
                continue;
            d->cells[(size_t)(i / d->fold) * d->n + j / d->fold] += value;
            d->rows[i / d->fold] += value;
            d->cols[j / d->fold] += value;
            known[i / d->fold] = true;
        }
    }
    for (uint32_t i = 0; i < d->n; i++) {
        if (known[i])
            continue;
        d->rows[i] = NAN;
        for (uint32_t j = 0; j < d->n; j++)
            d->cells[(size_t)i * d->n + j] = NAN;
    }
    d->max = 0;
    d->least = INFINITY;
    for (size_t i = 0; i < (size_t)d->n * d->n; i++) {
        d->max = d->cells[i] > d->max ? d->cells[i] : d->max;
        d->least = d->cells[i] > 0 && d->cells[i] < d->least ? d->cells[i] : d->least;
    }
    return true;
}

static void label(const struct drawing *d, uint32_t block, char *text, size_t size)
{
    uint32_t first = block * d->fold, last = first + d->fold - 1;

    if (last >= d->map->ranks)
        last = d->map->ranks - 1;
    if (d->fold == 1)
        snprintf(text, size, "%u", first);
    else
        snprintf(text, size, "%u-%u", first, last);
}

/* How wide everything is; false when it does not fit. */
static bool lay_out(struct drawing *d)
{
    char text[32];
    double total = 0, sum = 0;
    int wide = number_width(d->map, d->max);

    label(d, d->n - 1, text, sizeof text);
    d->head_width = (int)strlen(text) > 4 ? (int)strlen(text) : 4;
    if (wide < (int)strlen(text))
        wide = (int)strlen(text);
    for (uint32_t i = 0; i < d->n; i++) {
        total = fmax(total, fmax(d->rows[i], d->cols[i])); /* which passes over NaN */
        sum += d->cols[i];
    }
    d->total_width = number_width(d->map, sum > total ? sum : total) + 2;
    int room = d->map->columns - d->head_width - 1 - d->total_width;
    int column_total = number_width(d->map, total);
    wide = wide > column_total ? wide : column_total;
    d->numbers = (wide + 1) * (int)d->n <= room;
    if (d->numbers)
        d->cell_width = wide + 1;
    else
        d->cell_width = 2 * (int)d->n <= room ? 2 : 1;
    return d->cell_width * (int)d->n <= room;
}

static void draw_cell(FILE *to, const struct drawing *d, double value)
{
    if (isnan(value)) {
        fprintf(to, "%*s", d->cell_width, "?");
        return;
    }
    if (d->map->colour) {
        size_t at = shade(d, value, SHADES);
        fprintf(to, "\033[48;5;%um\033[38;5;%um", palette[at],
                at == 0  ? 240u
                : at > 9 ? 16u
                         : 231u);
    }
    if (d->numbers)
        print_number(to, d->map, value, d->cell_width);
    else
        for (int i = 0; i < d->cell_width; i++)
            fputc(d->map->colour ? ' ' : ramp[shade(d, value, sizeof ramp - 1)], to);
    if (d->map->colour)
        fputs("\033[0m", to);
}

/* Column labels: all of them over numbers, every fourth or eighth over shades. */
static void draw_head(FILE *to, const struct drawing *d)
{
    char text[32];

    fprintf(to, "%*s ", d->head_width, "src");
    int room = d->numbers ? d->cell_width - 1 : 8;
    uint32_t every = d->numbers ? 1 : (uint32_t)(room / d->cell_width);
    for (uint32_t j = 0; j < d->n; j++) {
        if (j % every)
            continue;
        uint32_t cells = d->n - j < every ? d->n - j : every;
        int width = (int)cells * d->cell_width;
        label(d, j, text, sizeof text);
        if (d->numbers)
            fprintf(to, "%*s", width, text);
        else
            fprintf(to, "%-*.*s", width, width, text);
    }
    fprintf(to, "%*s\n", d->total_width, "sent");
}

/* Under shades there is no room for a number a column: the loads are shaded too. */
static void draw_foot(FILE *to, struct drawing *d)
{
    double sum = 0, most = d->max;

    fprintf(to, "%*s ", d->head_width, "recv");
    for (uint32_t j = 0; j < d->n; j++) {
        sum += d->cols[j];
        most = d->cols[j] > most || j == 0 ? d->cols[j] : most;
    }
    double kept_max = d->max, kept_least = d->least;
    d->max = most;
    d->least = INFINITY;
    for (uint32_t j = 0; j < d->n; j++)
        d->least = d->cols[j] > 0 && d->cols[j] < d->least ? d->cols[j] : d->least;
    for (uint32_t j = 0; j < d->n; j++) {
        if (d->numbers)
            print_number(to, d->map, d->cols[j], d->cell_width);
        else
            draw_cell(to, d, d->cols[j]);
    }
    d->max = kept_max;
    d->least = kept_least;
    print_number(to, d->map, sum, d->total_width);
    fputc('\n', to);
}

static void draw_legend(FILE *to, const struct drawing *d)
{
    size_t shades = d->map->colour ? SHADES : sizeof ramp - 1;

    if (d->fold > 1)
        fprintf(to, "%u ranks do not fit: each cell is the sum over a block of %u x %u ranks\n",
                d->map->ranks, d->fold, d->fold);
    if (d->numbers && !d->map->colour)
        return;
    fprintf(to, "%*s 0 ", d->head_width, "");
    for (size_t i = 0; i < shades; i++) {
        if (d->map->colour)
            fprintf(to, "\033[48;5;%um  \033[0m", palette[i]);
        else
            fputc(ramp[i], to);
    }
    fputc(' ', to);
    print_number(to, d->map, d->max, 0);
    fprintf(to, " %s%s%s\n", d->map->unit, d->map->logarithmic ? ", logarithmic" : "",
            d->numbers ? "" : "; the row `recv` has a scale of its own");
}

void skew_heatmap_print(FILE *to, const struct skew_heatmap *map)
{
    struct drawing d = {.map = map};
    uint32_t most = map->ranks < MOST_ROWS ? map->ranks : MOST_ROWS;

    for (;; most = (most + 1) / 2) {
        if (!prepare(&d, most))
            return;
        if (lay_out(&d) || most <= 4)
            break;
        free(d.cells);
    }
    draw_head(to, &d);
    for (uint32_t i = 0; i < d.n; i++) {
        char text[32];
        label(&d, i, text, sizeof text);
        fprintf(to, "%*s ", d.head_width, text);
        for (uint32_t j = 0; j < d.n; j++)
            draw_cell(to, &d, d.cells[(size_t)i * d.n + j]);
        print_number(to, map, d.rows[i], d.total_width);
        fputc('\n', to);
    }
    draw_foot(to, &d);
    draw_legend(to, &d);
    free(d.cells);
}
