/*
 * Kernel interfaces that are younger than the C library's headers on many machines. Each carries the kernel that
 * brought it; the numbers are ABI and never change.
 */
#ifndef PREDUMP_COMPAT_H
#define PREDUMP_COMPAT_H

#include <linux/ioctl.h>
#include <stdint.h>

#define PD_PAGE_BYTES 4096UL

/* ioctl(PAGEMAP_SCAN) on /proc/PID/pagemap, since 6.7: include/uapi/linux/fs.h */
struct pd_pm_scan_arg {
	uint64_t size, flags;
	uint64_t start, end, walk_end;
	uint64_t vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
_Static_assert(sizeof(struct pd_pm_scan_arg) == 96, "struct pm_scan_arg is ABI");

#define PD_PAGEMAP_SCAN _IOWR('f', 16, struct pd_pm_scan_arg)
#define PD_PM_SCAN_WP_MATCHING (1UL << 0)
#define PD_PM_SCAN_CHECK_WPASYNC (1UL << 1)

/* userfaultfd: include/uapi/linux/userfaultfd.h; WP_ASYNC since 6.7 */
struct pd_uffdio_api {
	uint64_t api, features, ioctls;
};
struct pd_uffdio_range {
	uint64_t start, len;
};
struct pd_uffdio_register {
	struct pd_uffdio_range range;
	uint64_t mode, ioctls;
};
struct pd_uffdio_writeprotect {
	struct pd_uffdio_range range;
	uint64_t mode;
};
_Static_assert(sizeof(struct pd_uffdio_api) == 24, "struct uffdio_api is ABI");
_Static_assert(sizeof(struct pd_uffdio_register) == 32, "struct uffdio_register is ABI");
_Static_assert(sizeof(struct pd_uffdio_writeprotect) == 24, "struct uffdio_writeprotect is ABI");

#define PD_UFFD_API 0xAAUL
#define PD_UFFDIO_API _IOWR(0xAA, 0x3F, struct pd_uffdio_api)
#define PD_UFFDIO_REGISTER _IOWR(0xAA, 0x00, struct pd_uffdio_register)
#define PD_UFFDIO_UNREGISTER _IOR(0xAA, 0x01, struct pd_uffdio_range)
#define PD_UFFDIO_WRITEPROTECT _IOWR(0xAA, 0x06, struct pd_uffdio_writeprotect)
#define PD_UFFDIO_REGISTER_MODE_WP (1UL << 1)

/* system calls and ptrace requests (x86_64) */
#define PD_NR_PIDFD_GETFD 438              /* since 5.6 */
#define PD_PTRACE_GETSIGMASK 0x420A        /* since 3.11 */
#define PD_PTRACE_SETSIGMASK 0x420B
#define PD_PTRACE_GET_RSEQ_CONFIGURATION 0x420F /* since 5.13 */

#define PD_PTRACE_PEEKSIGINFO 0x4209       /* since 3.10 */
#define PD_PTRACE_SECCOMP_GET_FILTER 0x420C /* since 4.4 */
#define PD_PTRACE_GET_SYSCALL_INFO 0x420E  /* since 5.3 */
#define PD_SYSCALL_INFO_ENTRY 1

/* prctl and arch_prctl options */
#define PD_PR_GET_MDWE 66           /* since 6.3 */
#define PD_PR_GET_MEMORY_MERGE 68   /* since 6.4 */
#define PD_ARCH_GET_CPUID 0x1011    /* since 4.12 */
#define PD_ARCH_GET_XCOMP_PERM 0x1022 /* since 5.16 */

struct pd_rseq_configuration {
	uint64_t rseq_abi_pointer;
	uint32_t rseq_abi_size, signature, flags, pad;
};
_Static_assert(sizeof(struct pd_rseq_configuration) == 24, "struct ptrace_rseq_configuration is ABI");

/* getsockopt(SO_NETNS_COOKIE), since 5.14 */
#define PD_SO_NETNS_COOKIE 71

#endif
