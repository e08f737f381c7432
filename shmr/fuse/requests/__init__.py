"""The kernel's requests as calls of the volume, by what they are about.

Each module has a class whose `handlers` are the answers to some opcodes. They translate, and decide
nothing: the volume does, or the kernel. A handler gets the inode, the body and the header of a
request, see `loop.Handler`; what it raises is answered by `guard`.

Conventions with the kernel
- A file handle is the inode's number, with a bit above it (READS_COUNT): nothing has to be
  remembered per handle. A directory handle is the inode's number.
- Directory offsets: 1 is after ".", 2 is after "..", and above them the volume's cookies.
- atime moves where the kernel asks for bytes; what its page cache has, it does not ask for.
- The umask is in the request, not yet in the mode.

Not answered, and what the kernel does then: FLUSH (dirty pages are written at close without a
request of its own; there is nothing to add), ACCESS (it checks permissions itself), POLL (a file is
always ready), IOCTL (ENOTTY), COPY_FILE_RANGE (copies through the page cache: a byte belongs to one
inode here), BMAP, STATX. INTERRUPT is ignored, as POSIX has it for files: work on them is not
interrupted by signals.
"""
