/* SPDX-License-Identifier: Apache-2.0 */
/* A library with nothing in it: what the loader alone costs. */
int skew_empty;
