//! Messages on Amazon SQS.
