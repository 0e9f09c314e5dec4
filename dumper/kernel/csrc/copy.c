/* Bytes: from the target to a buffer, and zero pages out of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "page.h"
#include "predump.h"
#include "runs.h"

/* process_vm_readv takes IOV_MAX entries; reads of more than about 4 MiB fall out of the processor's caches. */
#define BATCH_ITEMS 1024
#define BATCH_PAGES 1024

struct batch {
	struct pd_run items[BATCH_ITEMS]; /* in the order of `in`; page_index of copied ones: place in the buffer */
	uint8_t copied[BATCH_ITEMS];
	uint64_t n_items;
	struct iovec remote[BATCH_ITEMS];
	uint64_t n_remote;
	uint8_t *read_to[BATCH_ITEMS];    /* where remote[i] goes */
	uint8_t unreadable[BATCH_PAGES];  /* by page of the batch */
	uint64_t first_page, n_pages;     /* places in the buffer */
	int any_unreadable;
};

static uint8_t *page_at(const struct pd_buffer *buffer, uint64_t index)
{
	return buffer->bytes + index * PD_PAGE_BYTES;
}

/* The mapped file that `addr` lies in, or else the next one. */
static const struct pd_file_map *file_from(const struct pd_source *source, uint64_t addr)
{
	uint64_t low = 0, high = source->n_files;

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (source->files[middle].end_addr <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low < source->n_files ? source->files + low : NULL;
}

static void set_unreadable(struct batch *batch, const struct pd_buffer *buffer, const uint8_t *place)
{
	batch->unreadable[(place - page_at(buffer, batch->first_page)) / PD_PAGE_BYTES] = 1;
	batch->any_unreadable = 1;
}

/* Reads [addr, addr + bytes) page by page where it must; what cannot be read is marked. */
static void read_slowly(int mem_fd, struct batch *batch, const struct pd_buffer *buffer, uint64_t addr, uint64_t bytes,
			uint8_t *to)
{
	while (bytes) {
		ssize_t got = pread(mem_fd, to, bytes, (off_t)addr);
		uint64_t done = got > 0 ? (uint64_t)got & ~(PD_PAGE_BYTES - 1) : 0;

		if (!done) {
			set_unreadable(batch, buffer, to);
			done = PD_PAGE_BYTES;
		}
		addr += done;
		to += done;
		bytes -= done;
	}
}

/* Adjacent places in the buffer are one local entry: the remote entries of a batch are read in few calls. */
static int read_remote(const struct pd_source *source, struct batch *batch, const struct pd_buffer *buffer)
{
	uint64_t i = 0;

	while (i < batch->n_remote) {
		uint64_t n = 1, wanted = batch->remote[i].iov_len;
		struct iovec local;
		ssize_t got;

		while (i + n < batch->n_remote && batch->read_to[i + n] == batch->read_to[i] + wanted)
			wanted += batch->remote[i + n++].iov_len;
		local = (struct iovec){batch->read_to[i], wanted};
		got = process_vm_readv(source->tid, &local, 1, batch->remote + i, n, 0);
		if (got < 0 && errno != EFAULT)
			return -errno;
		if (got < 0)
			got = 0;
		for (; n && (uint64_t)got >= batch->remote[i].iov_len; n--)
			got -= batch->remote[i++].iov_len;
		if (!n)
			continue;
		/* Not readable for process_vm_readv from here on (PROT_NONE, write-only, gone): /proc/PID/mem may. */
		got &= ~(ssize_t)(PD_PAGE_BYTES - 1);
		read_slowly(source->mem_fd, batch, buffer, (uint64_t)(uintptr_t)batch->remote[i].iov_base + got,
			    batch->remote[i].iov_len - got, batch->read_to[i] + got);
		i++;
	}
	return 0;
}

static void read_file(const struct pd_file_map *file, struct batch *batch, const struct pd_buffer *buffer,
		      uint64_t addr, uint64_t bytes, uint8_t *to)
{
	off_t offset = (off_t)(addr - file->start_addr + file->fd_offset_bytes);

	while (bytes) {
		ssize_t got = pread(file->fd, to, bytes, offset);

		if (got < 0) {
			for (; bytes; bytes -= PD_PAGE_BYTES, to += PD_PAGE_BYTES)
				set_unreadable(batch, buffer, to);
			return;
		}
		if (got == 0) { /* past the end of the file, which ends within a page */
			memset(to, 0, bytes);
			return;
		}
		offset += got;
		to += got;
		bytes -= (uint64_t)got;
	}
}

/* Puts a run, or as much of it as fits, into the batch and fetches what needs no process_vm_readv. */
static void batch_add(const struct pd_source *source, struct batch *batch, struct pd_run *run, uint64_t n_pages,
		      struct pd_buffer *buffer)
{
	uint8_t *to = page_at(buffer, buffer->n_pages);
	uint64_t bytes = n_pages * PD_PAGE_BYTES;
	const struct pd_file_map *file = run->kind == PD_RUN_COPY ? file_from(source, run->start_addr) : NULL;

	/* Runs go on over neighbouring mappings: only up to where the pages come from elsewhere. */
	if (file) {
		uint64_t border = run->start_addr < file->start_addr ? file->start_addr : file->end_addr;

		if (border < run->start_addr + bytes)
			bytes = border - run->start_addr;
		n_pages = bytes / PD_PAGE_BYTES;
		if (border == file->start_addr)
			file = NULL;
	}
	if (run->kind == PD_RUN_STAGED) {
		memcpy(to, source->staging + run->page_index * PD_PAGE_BYTES, bytes);
	} else if (file) {
		read_file(file, batch, buffer, run->start_addr, bytes, to);
	} else if (!source->tid) {
		for (uint64_t i = 0; i < n_pages; i++)
			set_unreadable(batch, buffer, to + i * PD_PAGE_BYTES);
	} else {
		batch->read_to[batch->n_remote] = to;
		batch->remote[batch->n_remote++] = (struct iovec){(void *)(uintptr_t)run->start_addr, bytes};
	}
	batch->copied[batch->n_items] = 1;
	batch->items[batch->n_items++] = (struct pd_run){run->start_addr, (uint32_t)n_pages, run->kind, buffer->n_pages};
	buffer->n_pages += n_pages;
	batch->n_pages += n_pages;
	run->start_addr += bytes;
	run->n_pages -= (uint32_t)n_pages;
	run->page_index += run->kind == PD_RUN_STAGED ? n_pages : 0;
}

static void append_pages(struct pd_run_list *list, const struct pd_run *item, uint64_t from, uint64_t to, uint32_t kind)
{
	if (from < to)
		runs_append(list, item->start_addr + from * PD_PAGE_BYTES, item->start_addr + to * PD_PAGE_BYTES, kind,
			    item->page_index + from);
}

/* Reads what the batch asks for and appends its runs to `out`. */
static int batch_finish(const struct pd_source *source, struct batch *batch, const struct pd_buffer *buffer,
			uint32_t out_kind, struct pd_run_list *out, struct pd_run_list *lost)
{
	int error = read_remote(source, batch, buffer);

	if (error)
		return error;
	for (uint64_t i = 0; i < batch->n_items; i++) {
		const struct pd_run *item = batch->items + i;
		const uint8_t *bad;

		if (!batch->copied[i] || !batch->any_unreadable) {
			append_pages(out, item, 0, item->n_pages, batch->copied[i] ? out_kind : item->kind);
			continue;
		}
		bad = batch->unreadable + (item->page_index - batch->first_page);
		for (uint64_t from = 0, to; from < item->n_pages; from = to) {
			for (to = from + 1; to < item->n_pages && bad[to] == bad[from]; to++)
				;
			if (!bad[from])
				append_pages(out, item, from, to, out_kind);
			else if (out_kind == PD_RUN_STAGED)
				append_pages(out, item, from, to, PD_RUN_COPY);
			else
				append_pages(lost, item, from, to, PD_RUN_COPY);
		}
	}
	return 0;
}

static int is_copied(const struct pd_run *run, uint32_t out_kind)
{
	return run->kind == PD_RUN_COPY || (run->kind == PD_RUN_STAGED && out_kind == PD_RUN_DATA);
}

/* Room for whatever a batch may yield, each of its pages a run of its own at worst. */
static int has_room(const struct pd_run_list *list)
{
	return list->capacity - list->n_runs >= BATCH_ITEMS + BATCH_PAGES;
}

int pd_copy(const struct pd_source *source, struct pd_run_list *in, uint64_t *next, uint32_t out_kind,
	    struct pd_buffer *buffer, struct pd_run_list *out, struct pd_run_list *lost)
{
	static _Thread_local struct batch batch;
	int staging = out_kind == PD_RUN_STAGED, overflowed = 0;

	if (!has_room(out) || !has_room(lost))
		return out->n_runs || lost->n_runs ? 1 : -ENOSPC;
	while (*next < in->n_runs) {
		int full = 0, error;

		batch.n_items = batch.n_remote = batch.n_pages = 0;
		batch.first_page = buffer->n_pages;
		if (batch.any_unreadable)
			memset(batch.unreadable, 0, sizeof(batch.unreadable));
		batch.any_unreadable = 0;
		while (*next < in->n_runs && batch.n_items < BATCH_ITEMS && batch.n_pages < BATCH_PAGES) {
			struct pd_run *run = in->runs + *next;
			uint64_t room = buffer->capacity_pages - buffer->n_pages;

			if (is_copied(run, out_kind) && room) {
				if (room > BATCH_PAGES - batch.n_pages)
					room = BATCH_PAGES - batch.n_pages;
				batch_add(source, &batch, run, run->n_pages < room ? run->n_pages : room, buffer);
				if (run->n_pages)
					continue;
			} else if (is_copied(run, out_kind) && !staging) {
				full = 1;
				break;
			} else {
				overflowed |= run->kind == PD_RUN_COPY;
				batch.copied[batch.n_items] = 0;
				batch.items[batch.n_items++] = *run;
			}
			++*next;
		}
		error = batch_finish(source, &batch, buffer, out_kind, out, lost);
		if (error)
			return error;
		if (full || (*next < in->n_runs && (!has_room(out) || !has_room(lost))))
			return staging ? -ENOSPC : 1;
	}
	return overflowed;
}

int pd_pack(const struct pd_run_list *in, struct pd_buffer *buffer, uint64_t first_index, struct pd_run_list *out)
{
	uint64_t kept = 0;

	for (uint64_t i = 0; i < in->n_runs; i++) {
		const struct pd_run *run = in->runs + i;

		if (run->kind != PD_RUN_DATA) {
			if (runs_append(out, run->start_addr, run_end_addr(run), run->kind, 0) < run_end_addr(run))
				return 1;
			continue;
		}
		for (uint64_t page = 0; page < run->n_pages; page++) {
			uint64_t addr = run->start_addr + page * PD_PAGE_BYTES;
			const uint8_t *bytes = page_at(buffer, run->page_index + page);
			int zero = is_zero_page(bytes);

			if (!zero && kept != run->page_index + page)
				memmove(page_at(buffer, kept), bytes, PD_PAGE_BYTES);
			if (runs_append(out, addr, addr + PD_PAGE_BYTES, zero ? PD_RUN_ZERO : PD_RUN_DATA,
					first_index + kept) == addr)
				return 1;
			kept += !zero;
		}
	}
	buffer->n_pages = kept;
	return 0;
}
