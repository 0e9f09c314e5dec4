/* A program with symbols of every kind, for names of addresses: tests/e2e/test_symbols.py compiles it in several ways.
 *
 * It answers nothing: the line `ready` says where some of its symbols are.
 */
#include "target.h"

int global_number = 7;
extern int __number __attribute__((alias("global_number")));
char long_text[9000] = "text that goes on";
static char local_text[64] = "the text of the program";
static char *pointers[] = {local_text, local_text + 4, long_text, 0};
static int same_name = 1; /* the library has one, too */
int zeros[3000];
static int local_zeros[3000];
__thread int own = 5;
const char constant[20] = "constant";
__asm__(".globl absolute_value\n.set absolute_value, 0x1234");

extern int library_number;
int *library_places(void **of_function);

static int one(void)
{
	return 1;
}

static void *choose(void)
{
	return (void *)one;
}

int indirect(void) __attribute__((ifunc("choose")));

static __attribute__((noinline)) int inner(int number)
{
	return number + same_name + own;
}

int main(void)
{
	void *library_function;
	int *library_same_name = library_places(&library_function);

	die_with_parent();
	local_zeros[2999] = zeros[2999] = indirect() + inner(1);
	memset(long_text + 4090, 'x', 20);
	printf("ready global_number=%p long_text=%p local_text=%p pointers=%p program_same_name=%p zeros=%p local_zeros=%p "
	       "main=%p inner=%p library_number=%p library_same_name=%p library_function=%p\n",
	       (void *)&global_number, (void *)long_text, (void *)local_text, (void *)pointers, (void *)&same_name,
	       (void *)zeros, (void *)local_zeros, (void *)main, (void *)inner, (void *)&library_number,
	       (void *)library_same_name, library_function);
	fflush(stdout);
	for (;;)
		pause();
}
