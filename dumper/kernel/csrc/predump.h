#ifndef PREDUMP_H
#define PREDUMP_H

#include <stddef.h>
#include <stdint.h>

#include "cdef.h"
#include "compat.h"

#endif
