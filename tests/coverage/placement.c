#include "coverage.h"
int cover_placement(void)
{
    return 0;
}
