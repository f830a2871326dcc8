/*-------------------------------------------------------------------------
 *
 * aws_one.h
 *	  Everything that reads bytes from AWS, fed with bytes (aws_one.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef AWS_ONE_H
#define AWS_ONE_H

#include "postgres.h"

/* The first byte chooses what reads the rest; ends the process on a mistake */
extern void aws_one(const uint8 *data, Size size);

/* What random changes begin with */
extern int	aws_seeds(const char *const **seeds);

#endif							/* AWS_ONE_H */
