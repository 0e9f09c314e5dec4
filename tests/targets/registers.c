/*
 * Threads that spin with known values in their registers: general ones, SSE ones and, where the processor has AVX,
 * the upper halves of YMM registers. Prints the thread ids; the values are PATTERN plus the number of the thread.
 */
#include "target.h"

#include <pthread.h>

#define PATTERN 0x1122334455660000UL
#define THREADS 4

static uint64_t values[THREADS][4];
static bool has_avx;

__attribute__((target("avx"))) static void spin_with_avx(const uint64_t *value)
{
	__asm__ volatile("vmovdqu %0, %%ymm9" : : "m"(*(const uint64_t(*)[4])value) : "xmm9");
}

static void *spin(void *argument)
{
	const uint64_t *value = argument;

	if (has_avx)
		spin_with_avx(value);
	__asm__ volatile("movdqu (%0), %%xmm8\n\t"
			 "mov (%0), %%r12\n\t"
			 "mov 8(%0), %%r13\n\t"
			 "mov 16(%0), %%r14\n\t"
			 "mov 24(%0), %%r15\n\t"
			 "1: pause\n\t"
			 "jmp 1b"
			 :
			 : "r"(value)
			 : "r12", "r13", "r14", "r15", "xmm8", "memory");
	return NULL;
}

int main(void)
{
	char line[256];

	die_with_parent();
	__builtin_cpu_init();
	has_avx = __builtin_cpu_supports("avx");
	for (uint64_t i = 0; i < THREADS; i++) {
		pthread_t thread;

		for (uint64_t k = 0; k < 4; k++)
			values[i][k] = PATTERN + 16 * i + k;
		if (pthread_create(&thread, NULL, spin, values[i]))
			return 1;
	}
	answer("ready threads=%d avx=%d", THREADS, has_avx);
	while (next_command(line, sizeof(line)))
		if (strcmp(line, "quit") == 0)
			return 0;
	return 1;
}
