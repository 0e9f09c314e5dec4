/* The library of symbols.c. */
int library_number = 11;
static int same_name = 2;

int library_function(void)
{
	return library_number;
}

int *library_places(void **of_function);
int *library_places(void **of_function)
{
	*of_function = (void *)library_function;
	same_name++;
	return &same_name;
}
