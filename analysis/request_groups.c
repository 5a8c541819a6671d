/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Correlation of prefill and decode, and groups of requests: see request_groups.h.
 */
#include "request_groups.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"
#include "stats.h"

/* ---- correlation ------------------------------------------------------------------------------
 */

static double pearson(const double *x, const double *y, uint32_t n)
{
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;

    for (uint32_t i = 0; i < n; i++) {
        mx += x[i] / n;
        my += y[i] / n;
    }
    for (uint32_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}

struct sums {
    double *prefill[2], *decode[2]; /* [experts] of two halves, or of one sample in [0] */
};

static void add(struct sums *s, int half, const double *prefill, const double *decode, size_t r,
                uint32_t experts)
{
    for (uint32_t e = 0; e < experts; e++) {
        s->prefill[half][e] += prefill[r * experts + e];
        s->decode[half][e] += decode[r * experts + e];
    }
}

static void clear(struct sums *s, uint32_t experts)
{
    memset(s->prefill[0], 0, 4 * experts * sizeof(double)); /* all four lie behind each other */
}

/* Reliability of a sum over all requests, from that of halves. */
static double spearman_brown(double halves)
{
    return halves > 0 ? 2 * halves / (1 + halves) : NAN;
}

/* pearson / sqrt of the reliabilities, mean over random halves. */
static double correct(struct sums *s, const double *prefill, const double *decode, size_t n,
                      uint32_t experts, double r, uint64_t *seed)
{
    enum { SPLITS = 20 };
    double sum = 0;

    for (int split = 0; split < SPLITS; split++) {
        size_t left = n / 2;
        clear(s, experts);
        for (size_t i = 0; i < n; i++) {
            bool first = skew_random_below(seed, (uint32_t)(n - i)) < left;
            left -= first;
            add(s, !first, prefill, decode, i, experts);
        }
        sum += r /
               sqrt(spearman_brown(pearson(s->prefill[0], s->prefill[1], experts)) *
                    spearman_brown(pearson(s->decode[0], s->decode[1], experts))) /
               SPLITS;
    }
    return fmin(1, fmax(-1, sum));
}

int skew_prefill_decode(struct skew_correlation *out, const double *prefill, const double *decode,
                        size_t requests, uint32_t experts, uint32_t draws, uint64_t seed)
{
    double sum = 0, squares = 0, *memory = calloc(4 * (size_t)experts, sizeof *memory);
    struct sums s = {{memory, memory + experts},
                     {memory + 2 * (size_t)experts, memory + 3 * (size_t)experts}};
    uint32_t good = 0;

    *out = (struct skew_correlation){requests, NAN, NAN, NAN, NAN};
    if (requests < 2 || !memory) {
        free(memory);
        return requests < 2 ? -ENODATA : -ENOMEM;
    }
    for (size_t i = 0; i < requests; i++)
        add(&s, 0, prefill, decode, i, experts);
    out->pearson = pearson(s.prefill[0], s.decode[0], experts);
    for (uint32_t d = 0; d < draws && requests >= 8; d++) {
        clear(&s, experts);
        for (size_t i = 0; i < requests; i++)
            add(&s, 0, prefill, decode, skew_random_below(&seed, (uint32_t)requests), experts);
        double z = atanh(pearson(s.prefill[0], s.decode[0], experts));
        if (!isfinite(z))
            continue;
        sum += z;
        squares += z * z;
        good++;
    }
    if (good > 1 && isfinite(atanh(out->pearson))) {
        /* A sample of n spreads by (n − 1) / n of what its population does. */
        double n = (double)requests, variance = fmax(0, squares - sum * sum / good) / (good - 1);
        double half = skew_student_quantile(0.975, n - 1) * sqrt(variance * n / (n - 1));
        out->low = tanh(atanh(out->pearson) - half);
        out->high = tanh(atanh(out->pearson) + half);
    }
    if (requests >= 4)
        out->corrected = correct(&s, prefill, decode, requests, experts, out->pearson, &seed);
    free(memory);
    return 0;
}

/* ---- K-means ----------------------------------------------------------------------------------
 */

void skew_normalise_rows(double *x, size_t n, size_t width)
{
    for (size_t i = 0; i < n; i++) {
        double squares = 0, *row = x + i * width;
        for (size_t j = 0; j < width; j++)
            squares += row[j] * row[j];
        for (size_t j = 0; j < width && squares > 0; j++)
            row[j] /= sqrt(squares);
    }
}

static double apart(const double *a, const double *b, size_t width)
{
    double sum = 0;

    for (size_t j = 0; j < width; j++)
        sum += (a[j] - b[j]) * (a[j] - b[j]);
    return sum;
}

static uint32_t nearest(const double *x, const double *centre, uint32_t k, size_t width,
                        double *distance)
{
    uint32_t best = 0;
    double least = INFINITY;

    for (uint32_t c = 0; c < k; c++) {
        double d = apart(x, centre + c * width, width);
        if (d < least) {
            least = d;
            best = c;
        }
    }
    if (distance)
        *distance = least;
    return best;
}

/* k-means++: each centre a row, likelier the farther it is from those before. */
static void start_centres(const double *x, size_t n, size_t width, uint32_t k, uint64_t *seed,
                          double *centre, double *far)
{
    memcpy(centre, x + skew_random_below(seed, (uint32_t)n) * width, width * sizeof *centre);
    for (uint32_t c = 1; c < k; c++) {
        double sum = 0;
        size_t pick = n - 1;
        for (size_t i = 0; i < n; i++) {
            nearest(x + i * width, centre, c, width, &far[i]);
            sum += far[i];
        }
        double at = sum * (double)(skew_splitmix(seed) >> 11) / 9007199254740992.0;
        for (size_t i = 0; i < n; i++) {
            at -= far[i];
            if (at < 0) {
                pick = i;
                break;
            }
        }
        memcpy(centre + c * width, x + pick * width, width * sizeof *centre);
    }
}

/* Moves rows and centres until nothing changes; the sum of squares that remains. */
static double lloyd(const double *x, size_t n, size_t width, uint32_t k, uint32_t *group,
                    double *centre, size_t *size)
{
    double total = 0;
    bool moved = true;

    for (int round = 0; round < 100 && moved; round++) {
        moved = round == 0;
        total = 0;
        for (size_t i = 0; i < n; i++) {
            double distance;
            uint32_t to = nearest(x + i * width, centre, k, width, &distance);
            moved |= to != group[i];
            group[i] = to;
            total += distance;
        }
        memset(size, 0, k * sizeof *size);
        for (size_t i = 0; i < n; i++)
            size[group[i]]++;
        for (uint32_t c = 0; c < k; c++)
            if (size[c]) /* an empty group keeps its centre */
                memset(centre + c * width, 0, width * sizeof *centre);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < width; j++)
                centre[group[i] * width + j] += x[i * width + j] / (double)size[group[i]];
    }
    return total;
}

int skew_kmeans(const double *x, size_t n, size_t width, uint32_t k, uint32_t starts, uint64_t seed,
                uint32_t *group, double *centre)
{
    double best = INFINITY;

    if (k == 0 || k > n)
        return -EINVAL;
    double *tried = calloc(k * width + n, sizeof *tried);
    uint32_t *tried_group = calloc(n, sizeof *tried_group);
    size_t *size = calloc(k, sizeof *size);
    int result = tried && tried_group && size ? 0 : -ENOMEM;
    for (uint32_t s = 0; s < starts && result == 0; s++) {
        start_centres(x, n, width, k, &seed, tried, tried + k * width);
        double total = lloyd(x, n, width, k, tried_group, tried, size);
        if (total < best) {
            best = total;
            memcpy(group, tried_group, n * sizeof *group);
            memcpy(centre, tried, k * width * sizeof *centre);
        }
    }
    free(tried);
    free(tried_group);
    free(size);
    return result;
}

/* ---- groups on domains ------------------------------------------------------------------------
 */

struct splitting {
    const struct skew_request_set *set;
    uint32_t groups;
    size_t width;           /* layers × experts */
    size_t train;           /* of order, the rest is held out */
    size_t *order;          /* [requests] */
    double *early, *vector; /* [requests][width] normalised; of decode */
    double *fit;            /* [train][width] */
    double *centre;         /* [groups][width] */
    uint32_t *group;        /* [requests], by order */
    double *demand;         /* [groups][width] */
    uint32_t *home;         /* [width] group of each layer's expert */
    double *tokens;         /* [groups] */
};

/* Experts of one layer to groups, E / K each, so that most demand is at home: those that lose most
 * by their second choice first, then swaps while they help. */
static void place_layer(struct splitting *s, uint32_t layer)
{
    uint32_t e = s->set->experts, k = s->groups, each = e / k;
    uint32_t *home = s->home + (size_t)layer * e, room[256];
    const double *demand = s->demand + (size_t)layer * e;

    for (uint32_t g = 0; g < k; g++)
        room[g] = each;
    memset(home, 0xff, e * sizeof *home);
    for (uint32_t placed = 0; placed < e; placed++) {
        double most = -1;
        uint32_t expert = 0, to = 0;
        for (uint32_t i = 0; i < e; i++) {
            double first = -1, second = -1;
            uint32_t best = 0;
            for (uint32_t g = 0; g < k && home[i] == UINT32_MAX; g++) {
                double wanted = room[g] ? demand[g * s->width + i] : -1;
                if (wanted > first) {
                    second = first;
                    first = wanted;
                    best = g;
                } else if (wanted > second) {
                    second = wanted;
                }
            }
            double regret = first < 0 ? -1 : first - fmax(second, 0);
            if (regret > most) {
                most = regret;
                expert = i;
                to = best;
            }
        }
        home[expert] = to;
        room[to]--;
    }
    for (bool better = true; better;) {
        better = false;
        for (uint32_t i = 0; i < e; i++)
            for (uint32_t j = i + 1; j < e; j++) {
                uint32_t a = home[i], b = home[j];
                double gain = demand[a * s->width + j] + demand[b * s->width + i] -
                              demand[a * s->width + i] - demand[b * s->width + j];
                if (gain > 1e-9) {
                    home[i] = b;
                    home[j] = a;
                    better = true;
                }
            }
    }
}

/* Places for the groups of the train requests, and scores the held-out ones: the share of their
 * copies that leaves home; *imbalance: max/mean of tokens over groups. */
static double place_and_score(struct splitting *s, double *imbalance)
{
    const struct skew_request_set *set = s->set;
    double away = 0, all = 0, most = 0;

    memset(s->demand, 0, s->groups * s->width * sizeof *s->demand);
    memset(s->tokens, 0, s->groups * sizeof *s->tokens);
    for (size_t i = 0; i < s->train; i++)
        for (size_t j = 0; j < s->width; j++)
            s->demand[s->group[i] * s->width + j] += set->decode[s->order[i] * s->width + j];
    for (uint32_t l = 0; l < set->layers; l++)
        place_layer(s, l);
    for (size_t i = s->train; i < set->requests; i++)
        for (size_t j = 0; j < s->width; j++) {
            double copies = set->decode[s->order[i] * s->width + j];
            all += copies;
            away += s->home[j] == s->group[i] ? 0 : copies;
            s->tokens[s->group[i]] += copies;
        }
    for (uint32_t g = 0; g < s->groups; g++)
        most = fmax(most, s->tokens[g]);
    *imbalance = all > 0 ? most * s->groups / all : NAN;
    return all > 0 ? away / all : NAN;
}

static void classify(struct splitting *s, const double *vector)
{
    for (size_t i = s->train; i < s->set->requests; i++)
        s->group[i] =
            nearest(vector + s->order[i] * s->width, s->centre, s->groups, s->width, NULL);
}

static int split_once(struct splitting *s, uint64_t *seed, double share[3], double imbalance[2])
{
    size_t n = s->set->requests;
    double ignored;

    for (size_t i = n; i > 1; i--) {
        size_t other = skew_random_below(seed, (uint32_t)i), kept = s->order[i - 1];
        s->order[i - 1] = s->order[other];
        s->order[other] = kept;
    }
    for (size_t i = 0; i < s->train; i++)
        memcpy(s->fit + i * s->width, s->vector + s->order[i] * s->width,
               s->width * sizeof *s->fit);
    int result = skew_kmeans(s->fit, s->train, s->width, s->groups, 4, skew_splitmix(seed),
                             s->group, s->centre);
    if (result < 0)
        return result;
    classify(s, s->early);
    share[0] = place_and_score(s, &imbalance[0]);
    classify(s, s->vector);
    share[1] = place_and_score(s, &ignored);
    for (size_t i = 0; i < n; i++) /* as many to each */
        s->group[i] = (uint32_t)(i % s->groups);
    share[2] = place_and_score(s, &imbalance[1]);
    return 0;
}

static int splitting_begin(struct splitting *s, const struct skew_request_set *set, uint32_t groups)
{
    size_t n = set->requests, w = (size_t)set->layers * set->experts;

    *s = (struct splitting){.set = set, .groups = groups, .width = w, .train = n - n / 5};
    s->early = calloc(3 * n * w + 2 * (size_t)groups * w + groups, sizeof *s->early);
    s->order = calloc(n, sizeof *s->order);
    s->group = calloc(n + w, sizeof *s->group);
    if (!s->early || !s->order || !s->group)
        return -ENOMEM;
    s->vector = s->early + n * w;
    s->fit = s->vector + n * w;
    s->centre = s->fit + n * w;
    s->demand = s->centre + groups * w;
    s->tokens = s->demand + groups * w;
    s->home = s->group + n;
    memcpy(s->early, set->early, n * w * sizeof *s->early);
    memcpy(s->vector, set->decode, n * w * sizeof *s->vector);
    skew_normalise_rows(s->early, n, w);
    skew_normalise_rows(s->vector, n, w);
    for (size_t i = 0; i < n; i++)
        s->order[i] = i;
    return 0;
}

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

static void summarise(double *x, uint32_t n, double *mean, double *low, double *high)
{
    *mean = 0;
    for (uint32_t i = 0; i < n; i++)
        *mean += x[i] / n;
    qsort(x, n, sizeof *x, ascending);
    *low = x[(uint32_t)(0.05 * (n - 1))];
    *high = x[(uint32_t)(0.95 * (n - 1) + 0.5)];
}

int skew_request_grouping(struct skew_grouping *out, const struct skew_request_set *set,
                          uint32_t groups, uint32_t splits, uint64_t seed)
{
    struct splitting s;
    double informed_low, informed_high;
    uint32_t won = 0;

    memset(out, 0, sizeof *out);
    if (groups < 2 || groups > 256 || splits == 0 || set->requests < 5 * (size_t)groups ||
        set->layers == 0 || set->experts % groups != 0)
        return -ENODATA;
    int result = splitting_begin(&s, set, groups);
    double *share = calloc(3 * (size_t)splits, sizeof *share);
    if (!share)
        result = -ENOMEM;
    for (uint32_t i = 0; i < splits && result == 0; i++) {
        double one[3], imbalance[2];
        result = split_once(&s, &seed, one, imbalance);
        for (int k = 0; k < 3 && result == 0; k++)
            share[k * splits + i] = one[k];
        won += result == 0 && one[0] < one[2];
        out->imbalance += result == 0 ? imbalance[0] / splits : 0;
        out->imbalance_random += result == 0 ? imbalance[1] / splits : 0;
    }
    if (result == 0) {
        out->won = (double)won / splits;
        out->groups = groups;
        out->splits = splits;
        out->held_out = set->requests - s.train;
        out->uniform = 1 - 1.0 / groups;
        summarise(share, splits, &out->grouped, &out->grouped_low, &out->grouped_high);
        summarise(share + splits, splits, &out->informed, &informed_low, &informed_high);
        summarise(share + 2 * splits, splits, &out->random, &out->random_low, &out->random_high);
    }
    free(share);
    free(s.early);
    free(s.order);
    free(s.group);
    return result;
}
