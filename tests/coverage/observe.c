#include "coverage.h"
int cover_observe(void)
{
    return 0;
}
