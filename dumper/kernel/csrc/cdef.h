/*
 * The whole face of the native library: what Python may call. cffi reads this file as it stands, and so does the
 * C compiler (through predump.h), so that the two cannot disagree.
 *
 * Every function returns a value >= 0 or -errno. Addresses are of the target, ranges are [start, end).
 */

/* Compiled into the library and compared at import, so that a stale build is named instead of misbehaving. */
#define PD_ABI 4

/* ---- pages.c: which pages there are, and what becomes of them ------------------------------------------------ */

/* What PAGEMAP_SCAN says of a page, include/uapi/linux/fs.h; GUARD since 6.16, the others since 6.7. */
#define PD_WPALLOWED 1
#define PD_WRITTEN 2
#define PD_FILE 4
#define PD_PRESENT 8
#define PD_SWAPPED 16
#define PD_PFNZERO 32
#define PD_HUGE 64
#define PD_GUARD 256
/* Ours: the kernel did not report the page as changed since the last scan; what was known then still holds. */
#define PD_KEPT 65536

/* struct page_region of the kernel; the flags of the span it comes from stand in the upper half of `categories`. */
struct pd_region {
	uint64_t start_addr, end_addr, categories;
};

/* A stretch of the address space whose VMAs are treated alike. */
#define PD_SPAN_SHARED 1    /* page cache is content, as in every MAP_SHARED mapping */
#define PD_SPAN_UNSEEN 2    /* writes may go unreported: all of its pages count as written */
#define PD_SPAN_FILE 4      /* private mapping of a file: page cache is none, a swapped, unwritten page may be a marker */
#define PD_SPAN_WHOLE 8     /* cannot be scanned: every page is content */
#define PD_SPAN_BY_FD 16    /* content is what SEEK_DATA finds in `fd` from `fd_offset_bytes`, and private copies over it */
#define PD_SPAN_CHANGES 32  /* all of it tracked, and known to the last scan: only changes need be looked at */
struct pd_span {
	uint64_t start_addr, end_addr;
	uint32_t flags;
	int32_t fd;
	uint64_t fd_offset_bytes;
};

struct pd_cursor {
	uint64_t span, addr;
};

/* A run of pages; the first three kinds are those of the image format, the others live only in memory. */
#define PD_RUN_DATA 1
#define PD_RUN_ZERO 2
#define PD_RUN_PARENT 3
#define PD_RUN_COPY 4   /* to be read from the target */
#define PD_RUN_STAGED 5 /* lies in the staging memory at page_index */
struct pd_run {
	uint64_t start_addr;
	uint32_t n_pages, kind;
	uint64_t page_index;
};

/* Sorted runs that a sweep walks through; `next` only grows. */
struct pd_sweep {
	const struct pd_run *runs;
	uint64_t n_runs, next;
};

struct pd_run_list {
	struct pd_run *runs;
	uint64_t n_runs, capacity;
};

/*
 * How to scan. With `reset` the pages reported as written are write-protected again in the same step; pages of the
 * categories `excluded` are no content; `distrust_holes`: a page zapped from a huge page may not read as written
 * (kernel commit 40de8160ca7f mends it), so that holes are looked for by themselves.
 */
struct pd_scan_mode {
	int32_t reset, distrust_holes;
	uint64_t excluded;
};

/*
 * Scans from `cursor` on until the spans end or `regions` is full; returns the number of regions. Only pages with
 * content are reported.
 */
int64_t pd_scan(int pagemap_fd, const struct pd_scan_mode *mode, const struct pd_span *spans, uint64_t n_spans,
		struct pd_cursor *cursor, struct pd_region *regions, uint64_t capacity);

/*
 * Turns regions[*used ..] into runs: COPY where a page was written or is in doubt, ZERO, what `staged` says (STAGED,
 * or COPY where its copy failed), PARENT where `covered` has it, and COPY again where neither does. Returns the
 * number of regions not used up (`out` was full; the region it stopped in then begins where the work goes on).
 */
int64_t pd_classify(struct pd_region *regions, uint64_t n_regions, uint64_t *used, struct pd_sweep *staged,
		    struct pd_sweep *covered, struct pd_run_list *out);

/* Pages of the runs of one kind. */
uint64_t pd_pages_of_kind(const struct pd_run *runs, uint64_t n_runs, uint32_t kind);

/* ---- copy.c: bytes ------------------------------------------------------------------------------------------ */

struct pd_file_map {
	uint64_t start_addr, end_addr, fd_offset_bytes;
	int32_t fd, pad;
};

/* Where pages are read from: the file behind a mapping where `files` has one, else the process (tid 0: nowhere). */
struct pd_source {
	int32_t tid, mem_fd;
	const struct pd_file_map *files;
	uint64_t n_files;
	const uint8_t *staging;
};

struct pd_buffer {
	uint8_t *bytes;
	uint64_t n_pages, capacity_pages;
};

/*
 * Goes through in->runs[*next ..] (and uses them up), copies the pages of COPY runs to the end of `buffer` and appends
 * the runs to `out` as `out_kind`, with page_index counted from the start of the buffer; the others pass unchanged.
 * out_kind STAGED: what cannot be read, or no longer fits, stays COPY. Returns 0, or 1 if something did not fit.
 * out_kind DATA: STAGED runs are copied too, from the staging memory; what cannot be read is left out and appended to
 * `lost`. Returns 0 at the end of the input, or 1 as soon as the buffer or a list is full: empty it, call again.
 * -ESRCH: the process is gone. -ENOSPC: a list is too small from the start.
 */
int pd_copy(const struct pd_source *source, struct pd_run_list *in, uint64_t *next, uint32_t out_kind,
	    struct pd_buffer *buffer, struct pd_run_list *out, struct pd_run_list *lost);

/*
 * Splits zero pages off the DATA runs of `in`, closes the gaps in `buffer` and numbers the pages that remain from
 * `first_index` on. Returns 0, or 1 if `out` was too small (then nothing may be used).
 */
int pd_pack(const struct pd_run_list *in, struct pd_buffer *buffer, uint64_t first_index, struct pd_run_list *out);

/*
 * Appends what lies of in->runs[*next ..] in [start, end) to `out`, with addresses moved by `delta` (modulo 2^64), and uses
 * it up. Returns 0, or 1 if `out` was too small: make it larger, call again.
 */
int pd_move_runs(struct pd_run_list *in, uint64_t *next, uint64_t start, uint64_t end, uint64_t delta,
		 struct pd_run_list *out);

/* All pages that are in `a` or in `b` (both sorted), as COPY runs; `out` has room for the runs of both. Returns 0. */
int pd_unite_runs(const struct pd_run_list *a, const struct pd_run_list *b, struct pd_run_list *out);

/* Adds the pages of each VMA to counts[4 * vma + kind], kind being DATA, ZERO or PARENT; both sorted by address. */
int pd_count_pages(const struct pd_run *runs, uint64_t n_runs, const struct pd_span *vmas, uint64_t n_vmas,
		   uint64_t *counts);

/* ---- uffd.c: write tracking --------------------------------------------------------------------------------- */

/* UFFDIO_API with exactly `features`. -EINVAL: the kernel lacks one of them, or the descriptor was set up before. */
int pd_uffd_enable(int uffd, uint64_t features);
/* UFFDIO_REGISTER for write-protection; results[i] is 0 or -errno. Returns how many succeeded. */
int64_t pd_uffd_register(int uffd, const struct pd_span *spans, uint64_t n_spans, int32_t *results);
/* Lifts write-protection piecewise, then UFFDIO_UNREGISTER. Returns how many spans were unregistered. */
int64_t pd_uffd_unregister(int uffd, const struct pd_span *spans, uint64_t n_spans);

/* ---- threads.c: stopping ------------------------------------------------------------------------------------ */

#define PD_THREAD_STOPPED 1
#define PD_THREAD_GONE 2        /* ended, or was a zombie from the start */
#define PD_THREAD_RESTARTED 4   /* its system call was told to start over instead of failing with EINTR */
struct pd_thread {
	int32_t tid, flags;
};

struct pd_thread_list {
	struct pd_thread *threads;
	uint64_t n_threads, capacity;
	int32_t failed_tid; /* the thread an error is about */
};

/*
 * Seizes and stops every thread of `pid`, in passes until no new one turns up. -ETIMEDOUT: a thread did not stop or
 * threads were born faster than they could be stopped; -EPERM; -ESRCH: nobody left; -ENOSPC: too many threads.
 * Whatever it stopped is in the list, also on errors: the caller resumes them.
 */
int pd_stop_threads(int pid, int seize_options, int64_t timeout_ns, struct pd_thread_list *list);
/*
 * Children of every thread of `pid`, in no order, without those that are threads: proc_pid_task(5), `children`. The list
 * is sure to be whole only while the process stands still. Returns how many, -ENOSPC if there are more than `capacity`,
 * -ESRCH if the process is gone.
 */
int64_t pd_children(int pid, int32_t *children, uint64_t capacity);
/*
 * Lets every thread of the list go on, untraced. One that does not stop even now (in uninterruptible sleep) stays traced
 * until this process ends.
 */
int pd_resume_threads(struct pd_thread_list *list);

struct pd_registers {
	int32_t tid;
	uint32_t xstate_bytes;
	uint8_t gp[216]; /* user_regs_struct */
	uint8_t fp[512]; /* FXSAVE image */
	uint8_t xstate[16384];
};
/* Registers of the stopped threads, in the order of the list; gone threads get tid 0. */
int pd_read_registers(const struct pd_thread_list *list, struct pd_registers *registers, uint64_t capacity);

/* ---- inject.c: system calls inside the target --------------------------------------------------------------- */

struct pd_site {
	uint64_t syscall_ret_addr; /* `syscall; ret` */
	uint64_t restorer_addr;    /* `mov $15, %rax; syscall` */
	uint64_t stack_start_addr; /* the [stack] VMA, in whose dead part the frames are built */
	uint64_t stack_end_addr;
	uint64_t scratch_end_addr; /* frames end here where the thread's stack pointer is not in [stack]; 0: no such place */
};

/* Stands in every frame, in the part that sigreturn does not read: frames left by a death can be told apart. */
const char *pd_frame_mark(void);

#define PD_INJECT_STEP_NONE 0
#define PD_INJECT_STEP_FRAMES 1   /* frames written */
#define PD_INJECT_STEP_SET 2      /* registers point at them */
#define PD_INJECT_STEP_ENTERED 3  /* system call about to run */
#define PD_INJECT_STEP_RETURNED 4 /* descriptor exists in the target */
#define PD_INJECT_STEP_TAKEN 5    /* and here */
#define PD_INJECT_STEP_CLOSED 6   /* and no longer in the target */

/*
 * In the stopped thread `tid`: userfaultfd(flags), pidfd_getfd here, close there. Returns the descriptor (here), or
 * -errno of the call in the target, -ETIMEDOUT if it did not run in time (all put back), -ENOEXEC if the target is
 * no 64-bit x86 or the site does not hold what it should, -ENOSPC if there is no room for the frames.
 * If the caller dies at any instant, the target closes the descriptor itself and goes on where it was.
 * `expected_fd` is the lowest free descriptor of the target; at step `die_at` process `victim` is killed (for tests).
 */
int pd_inject_userfaultfd(int tid, int pidfd, int mem_fd, const struct pd_site *site, int flags, int expected_fd,
			  int64_t timeout_ns, int die_at, int victim);

/* ---- probes.c: what this host can do ------------------------------------------------------------------------ */

/* userfaultfd(flags) of the caller itself: the descriptor. */
int pd_probe_userfaultfd(int flags);
/* pidfd_getfd(2): a copy, close-on-exec, of the descriptor `fd` of the process behind `pidfd`. */
int pd_probe_pidfd_getfd(int pidfd, int fd);
/* PAGEMAP_SCAN of the first page for pages with all of `categories`. -EINVAL: the kernel does not know one of them. */
int pd_probe_scan_category(int pagemap_fd, uint64_t categories);
/*
 * Whether huge pages of ours that are write-protected and then zapped read as written: 1, or 0 if the kernel loses
 * that. -EAGAIN: no huge page was to be had. `uffd` is a userfaultfd of the caller, ready for tracking.
 */
int pd_probe_zapped_huge_page(int uffd, int pagemap_fd);
