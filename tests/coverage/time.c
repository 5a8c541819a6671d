#include "coverage.h"
int cover_time(void)
{
    return 0;
}
