/* System V shared memory segments: shmget(2), shmat(2), shmctl(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "predump.h"

int pd_segment_make(uint32_t key, uint64_t n_bytes, int flags)
{
	int id = shmget((key_t)key, n_bytes, flags);

	return id < 0 ? -errno : id;
}

int pd_segment_own(int id, uint32_t uid, uint32_t gid, uint32_t mode)
{
	struct shmid_ds segment;

	if (shmctl(id, IPC_STAT, &segment) < 0)
		return -errno;
	segment.shm_perm.uid = uid;
	segment.shm_perm.gid = gid;
	segment.shm_perm.mode = mode;
	return shmctl(id, IPC_SET, &segment) < 0 ? -errno : 0;
}

int pd_segment_lock(int id)
{
	return shmctl(id, SHM_LOCK, NULL) < 0 ? -errno : 0;
}

int pd_segment_remove(int id)
{
	return shmctl(id, IPC_RMID, NULL) < 0 ? -errno : 0;
}

int64_t pd_segment_attach(int id)
{
	void *at = shmat(id, NULL, 0);

	return at == (void *)-1 ? -errno : (int64_t)(intptr_t)at;
}

int pd_segment_detach(int64_t addr)
{
	return shmdt((void *)(intptr_t)addr) < 0 ? -errno : 0;
}

int pd_segment_clear(int64_t addr, uint64_t n_bytes)
{
	return madvise((void *)(intptr_t)addr, n_bytes, MADV_REMOVE) < 0 ? -errno : 0;
}
