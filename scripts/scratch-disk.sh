#!/bin/sh
# Makes an empty scratch disk, a sparse file. Usage: scripts/scratch-disk.sh FILE SIZE
# It lives as long as a Pod, so it has no journal; its inode tables count as zeroed, so the guest never writes them out. With meta_bg the
# guest's kernel can grow it (EXT4_IOC_RESIZE_FS) and nothing is kept free for that; a sparse_super2 it would refuse to grow.
# Times, UUID and hash seed are fixed: the same size gives the same bytes.
set -eu
rm -f "$1.tmp"
E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F -t ext4 -b 4096 -I 256 -G 256 -m 0 -L scratch \
	-U 6e6f6465-6c65-7373-0000-000000000000 \
	-O '^has_journal,^64bit,^resize_inode,^metadata_csum,uninit_bg,meta_bg,sparse_super,^sparse_super2,extent,flex_bg,dir_index,filetype,ext_attr,large_file,huge_file,dir_nlink,extra_isize' \
	-E 'assume_storage_prezeroed=1,root_owner=0:0,hash_seed=6e6f6465-6c65-7373-0000-000000000001' \
	"$1.tmp" "$2" >/dev/null
mv "$1.tmp" "$1"
