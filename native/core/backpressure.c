/* backpressure.c: see backpressure.h. */
#include "backpressure.h"

#define AT_ONCE 3 /* this part of the budget may be spent at once. The rest comes evenly over the period */

static int64_t less_of(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

static int64_t more_of(int64_t one, int64_t other)
{
    return one > other ? one : other;
}

int64_t jdr_backpressure_left(struct jdr_backpressure *disk, const struct jdr_pressure *pressure, int64_t now_ns)
{
    int64_t at_once = pressure->budget_ns / AT_ONCE;
    double evenly = (double)(pressure->budget_ns - at_once) / JDR_BUDGET_PERIOD_NS;
    if (!disk->reckoned_ns)
        disk->left_ns = at_once;
    else if (now_ns > disk->reckoned_ns)
        disk->left_ns += (int64_t)(evenly * (double)(now_ns - disk->reckoned_ns));
    disk->left_ns = less_of(disk->left_ns, at_once);
    disk->reckoned_ns = more_of(now_ns, disk->reckoned_ns);
    return more_of(disk->left_ns, 0);
}

void jdr_backpressure_charge(struct jdr_backpressure *disk, const struct jdr_pressure *pressure, int64_t from_ns,
                             int64_t to_ns)
{
    jdr_backpressure_left(disk, pressure, from_ns);
    int64_t unpaid_ns = to_ns - more_of(from_ns, disk->charged_ns);
    if (unpaid_ns <= 0)
        return;
    disk->left_ns -= unpaid_ns;
    disk->charged_ns = to_ns;
}

int64_t jdr_backpressure_delay(struct jdr_backpressure *disk, const struct jdr_pressure *pressure, uint64_t weight,
                               int64_t now_ns)
{
    if (!pressure->bytes_per_s)
        return 0;
    int64_t paid_ns = more_of(disk->charged_ns - now_ns, 0);
    int64_t may_wait_ns = paid_ns + jdr_backpressure_left(disk, pressure, now_ns);
    int64_t delay_ns = less_of(disk->next_ns - now_ns, less_of(pressure->delay_max_ns, may_wait_ns));
    double takes_ns = (double)weight * 1e9 / (double)pressure->bytes_per_s;
    int64_t limit_ns = now_ns + pressure->delay_max_ns; /* what is owed beyond that is forgiven */
    disk->next_ns = more_of(disk->next_ns, now_ns);
    disk->next_ns = takes_ns < (double)(limit_ns - disk->next_ns) ? disk->next_ns + (int64_t)takes_ns : limit_ns;
    if (delay_ns <= 0)
        return 0;
    jdr_backpressure_charge(disk, pressure, now_ns, now_ns + delay_ns);
    return delay_ns;
}
