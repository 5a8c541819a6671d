/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How ranks meet: unique ids go from one rank to the others, results from all to the one that
 * reports. Ranks that we start share a mapping made before the fork; under a launcher it is files
 * beside a path prefix that all ranks see.
 */
#ifndef SKEW_WORKLOAD_RENDEZVOUS_H
#define SKEW_WORKLOAD_RENDEZVOUS_H

#include "workload.h"

/** `prefix` NULL: a shared mapping. On failure *out is untouched and `error` holds one sentence. */
int skew_rendezvous_open(struct skew_rendezvous **out, unsigned ranks, size_t results_bytes,
                         const char *prefix, char *error, size_t error_size);
void skew_rendezvous_close(struct skew_rendezvous **r);

/** Publishes the id of a slot; waits for it. Slots are [enum skew_comm_role][ranks]. */
void skew_rendezvous_put(const struct skew_rank *rank, unsigned slot, const ncclUniqueId *id);
void skew_rendezvous_get(const struct skew_rank *rank, unsigned slot, ncclUniqueId *id);

/** Room for a rank's results: zero at first, seen by the reporter once published. */
struct skew_results *skew_rendezvous_results(struct skew_rendezvous *r, unsigned rank);
void skew_rendezvous_publish(const struct skew_rank *rank);
/** Waits for all ranks' results under a launcher, then removes the files. 0 or a negative errno. */
int skew_rendezvous_collect(struct skew_rendezvous *r);

#endif
